"""Checks for codecs: what every session decodes to, and whether the registry is intact."""

import numpy as np
from made_registries import decoded

from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.verification import verify


def oldest_first(registry):
    return registry.sessions()[::-1]


def states(registry):
    """Return what every session decodes to."""
    return {session.id: decoded(registry, session) for session in oldest_first(registry)}


def problems(registry):
    return [*verify(registry).problems, *verify(registry, quick=True).problems]


def values_of(registry, session, task):
    """Return one expert's delta."""
    codec = codec_for(registry.config, session)
    state = open_state(registry, session)
    return dict(codec.decode(state.shared, state.parts[session.entries.index(session.entry(task))]))


def trimmed(delta, options):
    """Return what is left of a new delta: the largest magnitudes of each row that is merged."""
    share, exact = float(options.get("trim", 0)), options.get("exact", "")
    found = {name: values.copy() for name, values in delta.items()}
    for values in found.values():
        if share and not (exact and values.ndim <= 1):
            for row in values.reshape(len(values) if values.ndim > 1 else 1, -1):
                order = sorted(range(row.size), key=lambda place: (abs(row[place]), place))
                row[order[: int(share * row.size)]] = 0
    return found


def within(found, wanted, relative):
    """Return whether two deltas are equal up to a share of the L1 norm."""
    off = sum(np.abs(found[name] - wanted[name]).sum() for name in wanted)
    return off <= relative * sum(np.abs(values).sum() for values in wanted.values())
