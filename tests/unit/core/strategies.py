"""Layouts and deltas that look for trouble, and helpers to walk between flat and named."""

import numpy as np
from hypothesis import strategies as st

from condu_cli.core.layout import ParameterLayout
from condu_cli.core.masks import unpack
from condu_cli.core.unify import unify

AWKWARD = [0.0, 0.5, 1.0, 1.0000001, 2.0, 3e-3, 2.0**-149, 2.0**-148, 1e-40, 2.0**-126]
TINY = [0.0, 2.0**-149, 2.0**-148, 3 * 2.0**-149, 1e-40, 2.0**-127]
HUGE = [0.0, 2.0**-149, 1e-20, 1.0, 1e10, 1e20]

shapes = st.sampled_from(
    [(1,), (), (3,), (7, 3), (8,), (63,), (64,), (65,), (2, 40), (0, 4), (130,)]
)
layouts = st.lists(shapes, min_size=1, max_size=4).map(
    lambda found: ParameterLayout(tuple(f"tensor{i}" for i in range(len(found))), tuple(found))
)


def flat_deltas(size):
    """A float32 vector: usual values, awkward ones, sparse ones, or nothing but zeros."""
    seeds = st.integers(0, 2**32 - 1)
    return st.one_of(
        seeds.map(lambda s: usual(s, size)),
        seeds.map(lambda s: chosen(AWKWARD, s, size)),
        seeds.map(lambda s: chosen(TINY, s, size)),
        seeds.map(lambda s: usual(s, size) * (np.random.default_rng(s).random(size) < 0.3)),
        st.just(np.zeros(size, dtype=np.float32)),
    ).map(lambda values: values.astype(np.float32))


def usual(seed, size):
    return np.random.default_rng(seed).normal(scale=1e-3, size=size).astype(np.float32)


def chosen(magnitudes, seed, size):
    """Random signs on random picks; a zero may be negative."""
    generator = np.random.default_rng(seed)
    return generator.choice(magnitudes, size) * generator.choice([-1.0, 1.0], size)


def huge_deltas(size):
    """From the smallest float32 to the largest value that is let in."""
    seeds = st.integers(0, 2**32 - 1)
    return seeds.map(lambda s: chosen(HUGE, s, size).astype(np.float32))


@st.composite
def problems(draw, max_tasks=4, elements=flat_deltas):
    """(layout, list of flat deltas), among them repeated and opposite tasks."""
    layout = draw(layouts)
    deltas = [draw(elements(layout.count))]
    for _ in range(draw(st.integers(0, max_tasks - 1))):
        kind = draw(st.sampled_from(["other", "other", "identical", "opposite"]))
        if kind == "other":
            deltas.append(draw(elements(layout.count)))
        else:
            deltas.append(deltas[-1] if kind == "identical" else -deltas[-1])
    return layout, deltas


def named(layout, flat):
    """Flat vector -> {name: tensor}."""
    return {
        name: flat[offset : offset + size].reshape(shape)
        for name, shape, size, offset in zip(
            layout.names, layout.shapes, layout.sizes, layout.offsets, strict=True
        )
    }


def flat(layout, tensors):
    """{name: tensor} -> flat vector."""
    return np.concatenate([np.asarray(tensors[name]).reshape(-1) for name in layout.names])


def flat_mask(layout, packed):
    return flat(layout, dict(unpack(layout, packed)))


def learn_all(layout, deltas, **options):
    """Session after session, from nothing."""
    state = unify(layout, None, [], named(layout, deltas[0]), **options)
    for delta in deltas[1:]:
        state = unify(layout, state.unified, state.triggers, named(layout, delta), **options)
    return state


def rescalers(state):
    return [float(trigger.rescaler[0]) for trigger in state.triggers]
