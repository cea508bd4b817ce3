"""Awkward layouts and deltas, and helpers that convert between flat and named arrays."""

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from hypothesis import strategies as st

from condu_cli.core.arrays.coders import DTYPES as UNIFIED_DTYPES
from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.merging.decouple import decouple, relative_drift
from condu_cli.core.merging.masks import tensor_mask
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.rescalers import GRANULARITIES
from condu_cli.core.merging.unify import unify
from condu_cli.core.passes.kernels import compiled_loops
from condu_cli.core.passes.streaming import Execution
from condu_cli.core.routing.prototypes import PrototypeBuilder

__all__ = ["DTYPES", "GRANULARITIES", "KERNELS"]

DTYPES = tuple(UNIFIED_DTYPES)
# Without numba there is nothing to compare, and test_core_compiled.py is skipped.
KERNELS = ("vectorised", "compiled") if compiled_loops() else ("vectorised",)

# Fastest for small layouts; test_core_streaming.py shows that this does not affect results.
HERE = Execution(threads=1, kernels=KERNELS[-1])

AWKWARD = [0.0, 0.5, 1.0, 1.0000001, 2.0, 3e-3, 2.0**-149, 2.0**-148, 1e-40, 2.0**-126]
TINY = [0.0, 2.0**-149, 2.0**-148, 3 * 2.0**-149, 1e-40, 2.0**-127]
HUGE = [0.0, 2.0**-149, 1e-20, 1.0, 1e10, 1e20]

shapes = st.sampled_from(
    [
        (1,),
        (),
        (3,),
        (7, 3),
        (8,),
        (63,),
        (64,),
        (65,),
        (2, 40),
        (0, 4),
        (3, 0),
        (130,),
        (5, 9),
        (2, 3, 4),
        (1, 1),
    ]
)
layouts = st.lists(shapes, min_size=1, max_size=4).map(
    lambda found: ParameterLayout(tuple(f"tensor{i}" for i in range(len(found))), tuple(found))
)
methods = st.builds(Method, layouts, st.sampled_from(GRANULARITIES), st.sampled_from(DTYPES))


def flat_deltas(size):
    """Draw a float32 vector: ordinary, awkward, sparse or all zeros."""
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


def spread(seed, size):
    """Draw values of such different magnitudes that float64 sums depend on their order."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=size) * 2.0 ** generator.uniform(-40, 0, size)
    return values.astype(np.float32)


def chosen(magnitudes, seed, size):
    """Draw random values with random signs; a zero may be negative."""
    generator = np.random.default_rng(seed)
    picked = generator.choice(magnitudes, size) * generator.choice([-1.0, 1.0], size)
    return picked.astype(np.float32)


def huge_deltas(size):
    """Draw magnitudes from the smallest float32 to the largest accepted value."""
    seeds = st.integers(0, 2**32 - 1)
    return seeds.map(lambda s: chosen(HUGE, s, size))


def usual_deltas(size):
    return st.integers(0, 2**32 - 1).map(lambda s: usual(s, size))


@st.composite
def problems(draw, max_tasks=4, elements=flat_deltas, of=layouts):
    """Draw (layout, list of flat deltas), some repeated or opposite."""
    layout = draw(of)
    deltas = [draw(elements(layout.count))]
    for _ in range(draw(st.integers(0, max_tasks - 1))):
        kind = draw(st.sampled_from(["other", "other", "identical", "opposite"]))
        if kind == "other":
            deltas.append(draw(elements(layout.count)))
        else:
            deltas.append(deltas[-1] if kind == "identical" else -deltas[-1])
    return layout, deltas


def trimmed(layout, delta, share):
    """Clear the smallest share of each row of a flat delta: by magnitude, then by position."""
    found = delta.copy()
    for offset, size, rows in zip(starts(layout), layout.sizes, layout.row_counts, strict=True):
        for row in found[offset : offset + size].reshape(rows, -1) if rows else ():
            order = sorted(range(row.size), key=lambda place: (abs(row[place]), place))
            row[order[: int(share * row.size)]] = 0
    return found


def starts(layout):
    """Return where each tensor starts in the flat vector."""
    return list(accumulate(layout.sizes, initial=0))[:-1]


def named(layout, flat):
    """Convert a flat vector to {name: tensor}."""
    return {
        name: flat[offset : offset + size].reshape(shape)
        for name, shape, size, offset in zip(
            layout.names, layout.shapes, layout.sizes, starts(layout), strict=True
        )
    }


def flat(layout, tensors):
    """Convert {name: tensor} to a flat vector of the layout's parameters only."""
    return np.concatenate([np.asarray(tensors[name]).reshape(-1) for name in layout.names])


def flat_mask(layout, packed):
    return flat(layout, {name: tensor_mask(packed, layout, name) for name in layout.names})


def packed_mask(layout, masks):
    """Pack {name: bool tensor} bit by bit."""
    bits = np.zeros(layout.mask_bytes * 8, dtype=bool)
    for name, offset in zip(layout.names, layout.mask_offsets, strict=True):
        mask = masks[name].reshape(-1)
        bits[offset : offset + mask.size] = mask
    return np.packbits(bits, bitorder="little")


def drift(before, after):
    """Return ||after - before||_1 / ||before||_1 of experts returned by a codec's decode."""
    pairs = list(zip(dict(before).values(), dict(after).values(), strict=True))
    moved = sum(np.abs(np.subtract(new, old, dtype=np.float64)).sum() for old, new in pairs)
    return relative_drift(moved, sum(np.abs(old).sum(dtype=np.float64) for old, _ in pairs))


def vector(*values):
    return np.array(values, dtype=np.float32)


def same_bits(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.tobytes() == second.tobytes()
    )


def learn(method, state, delta, execution=HERE):
    """Run one session: add a flat delta to `state`; None: the first session."""
    unified, triggers = (state.unified, state.triggers) if state else (None, [])
    return unify(method, unified, triggers, named(method.layout, delta), execution)


def learn_all(method, deltas, execution=HERE):
    """Run one session per delta, from an empty start."""
    state = None
    for delta in deltas:
        state = learn(method, state, delta, execution)
    return state


def rescalers(state):
    """Return the rescalers of every task, one per group."""
    return [[float(r) for r in trigger.rescaler] for trigger in state.triggers]


def stored_values(method, unified):
    """Return the unified delta as flat float32 values, whatever its dtype."""
    stored = method.stored(unified)
    tensors = zip(method.layout.names, range(len(method.layout.names)), strict=True)
    return flat(method.layout, {name: stored.tensor(position) for name, position in tensors})


def experts(method, state):
    """Return every expert's delta, flat."""
    return [flat(method.layout, dict(decouple(method, state.unified, t))) for t in state.triggers]


def group_norms(method, values):
    """Return the float64 L1 norm of each group of a flat vector."""
    magnitudes = np.abs(values.astype(np.float64))
    if method.rescaler == "global":
        return np.array([magnitudes.sum()])
    norms = []
    for size, rows in zip(method.layout.sizes, method.layout.row_counts, strict=True):
        tensor, magnitudes = magnitudes[:size], magnitudes[size:]
        if method.rescaler == "tensor":
            norms.append(tensor.sum())
        elif rows:
            norms.extend(tensor.reshape(rows, -1).sum(axis=1))
    return np.array(norms)


def assert_same_results(one, other):
    """Assert that two results of unify are equal bit for bit."""
    assert list(one.unified) == list(other.unified)
    for name, array in one.unified.items():
        assert same_bits(array, other.unified[name]), name
    assert len(one.triggers) == len(other.triggers)
    for first, second in zip(one.triggers, other.triggers, strict=True):
        assert same_bits(first.mask, second.mask)
        assert same_bits(first.rescaler, second.rescaler)
    assert (one.norms, one.covered) == (other.norms, other.covered)


class LazyTensors(Mapping):
    """Counts how often each tensor is loaded."""

    def __init__(self, arrays):
        self._arrays = arrays
        self.reads = dict.fromkeys(arrays, 0)

    def __getitem__(self, name):
        self.reads[name] += 1
        return self._arrays[name]

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self):
        return len(self._arrays)


def prototypes_of(text, images, pooled, labels):
    """Compute the prototypes of all features at once."""
    builder = PrototypeBuilder(text, pooled.shape[1])
    builder.add(images, pooled, labels)
    return builder.build()
