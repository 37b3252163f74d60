"""The permutohedral lattice: a Gaussian filter over points of a feature space of few dimensions, in time linear in the points.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010, as the dense CRF of
Krähenbühl and Koltun (arXiv 1210.5644) uses it. A point lies in a simplex of d + 1 lattice vertices. Its value is splat on them
with barycentric weights, the vertices that any point has touched are blurred with [1/2, 1, 1/2] along each of the d + 1 axes
in turn, and the point reads its result from its own vertices (slice).

Which vertices there are depends on the points. They are found in a hash table on the device, with shapes that depend on the
number of points alone; `with_capacity` then cuts the tables to a number of vertices that holds them.

Letters: N points, d dimensions, V vertices.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_EMPTY = np.iinfo(np.int32).max


class Vertices(NamedTuple):
    """The vertices that N points touch.

    Attributes:
      ids: int32 [N, d + 1], numbers 0..count - 1 of the vertices of each point's simplex; -1 for points left out.
      weights: float32 [N, d + 1], barycentric, sum 1 over the last axis; 0 for points left out.
      count: int32, how many vertices there are.
      words: uint32 [N (d + 1)] each, the coordinates of each point's vertices, packed.
      table: int32 [T], hash table: the first of the N (d + 1) pairs that touch a vertex; _EMPTY where free.
      numbers: int32 [N (d + 1)], of the pairs in the table: the number of their vertex.
      steps: uint32 [d + 1, W], what added to the words leads to the neighbour along each axis.
    """

    ids: jax.Array
    weights: jax.Array
    count: jax.Array
    words: tuple[jax.Array, ...]
    table: jax.Array
    numbers: jax.Array
    steps: jax.Array


class Lattice(NamedTuple):
    """Vertices, cut to a capacity V, with their neighbours. Row V of any array of vertices is 0 and stands for "none".

    Attributes:
      ids: int32 [d + 1, N], in 0..V.
      weights: float32 [d + 1, N].
      neighbours: int32 [d + 1, 2, V + 1], along each axis, in 0..V.
    """

    ids: jax.Array
    weights: jax.Array
    neighbours: jax.Array


def find_vertices(features: jax.Array, inside: jax.Array, limits: Sequence[float]) -> Vertices:
    """Embeds points in the lattice whose filter is a Gaussian of standard deviation 1.

    Args:
      features: float32 [N, d].
      inside: bool [N]; points that are False touch no vertex.
      limits: the largest value of each feature (the least is 0): with them the coordinates are packed in few words.
    """
    places, steps = _places(limits)
    embed = functools.partial(_simplex, len(limits))
    # A branch of its own, because XLA would fuse the simplices into every reader of them, and compute them many times.
    nearest, rank, offset = jax.lax.cond(inside.any(), embed, lambda x: jax.tree.map(jnp.zeros_like, embed(x)), features)
    words, weights = _pack(nearest, rank, places), _barycentric(rank, offset)
    words = tuple(word.reshape(-1) for word in words)
    touched = jnp.broadcast_to(inside[:, None], weights.shape)
    table, owners = _insert(words, touched.reshape(-1))
    # Numbered in the order of the points: neighbours in the photo are neighbours in memory.
    numbers, count = _running_count(touched.reshape(-1) & (owners == jnp.arange(owners.size)))
    ids = jnp.where(touched, numbers[owners].reshape(weights.shape), -1)
    return Vertices(ids, jnp.where(touched, weights, 0), count, words, table, numbers, steps)


def with_capacity(vertices: Vertices, capacity: int) -> Lattice:
    """The lattice with room for `capacity` vertices. The caller sees to it that `count` is not above it."""
    ids = jnp.where(vertices.ids < 0, capacity, vertices.ids)
    known = jnp.arange(capacity) < vertices.count
    # pairs of one vertex write the same words
    words = [jnp.zeros(capacity + 1, jnp.uint32).at[ids.reshape(-1)].set(word)[:capacity] for word in vertices.words]

    axes = len(vertices.steps)
    targets = tuple((word + steps[:, None]).reshape(-1) for word, steps in zip(words, vertices.steps.T, strict=True))
    found = _look_up(vertices, targets, jnp.tile(known, axes)).reshape(axes, capacity)
    after = jnp.where(found < 0, capacity, found)
    none = jnp.full((axes, capacity + 1), capacity, jnp.int32)
    before = none.at[jnp.arange(axes)[:, None], after].set(jnp.arange(capacity, dtype=jnp.int32))
    neighbours = jnp.stack([none.at[:, :-1].set(after), before.at[:, -1].set(capacity)], 1)
    return Lattice(ids.T, vertices.weights.T, neighbours)


def most_vertices(points: int, limits: Sequence[float]) -> int:
    """What the number of vertices cannot exceed: all corners, or all of the lattice that is near the box of the features.

    A unit of feature space holds (2/3)^(d/2) sqrt(d + 1) vertices. Those that are touched lie within the longest edge of a
    simplex of the box, and their Voronoi cells within that of them.
    """
    d = len(limits)
    half = (d + 1) // 2
    edge = math.sqrt(half * (d + 1 - half) / (d + 1) * 3 / 2)
    volume = math.prod(limit + 4 * edge for limit in limits)
    return min(points * (d + 1), math.ceil(volume * (2 / 3) ** (d / 2) * math.sqrt(d + 1)))


def blur(lattice: Lattice, values: jax.Array) -> jax.Array:
    """The Gaussian filter of values [N, C], not normalised; 0 for points left out."""
    corners, _, rows = lattice.neighbours.shape

    def splat(state: jax.Array, corner: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        ids, weights = corner
        return state.at[ids].add(weights[:, None] * values, mode="promise_in_bounds"), None

    state, _ = jax.lax.scan(splat, jnp.zeros((rows, values.shape[-1]), values.dtype), (lattice.ids, lattice.weights))
    state = state.at[-1].set(0)

    def along(state: jax.Array, ends: jax.Array) -> tuple[jax.Array, None]:
        first, second = (state.at[end].get(mode="promise_in_bounds") for end in ends)
        return state + 0.5 * (first + second), None

    # a scan, because XLA fuses unrolled gathers of gathers, and computes them again and again
    state, _ = jax.lax.scan(along, state, lattice.neighbours)
    scale = 1 / (1 + 2.0 ** -(corners - 1))
    seen = (w[:, None] * state.at[i].get(mode="promise_in_bounds") for i, w in zip(lattice.ids, lattice.weights, strict=True))
    return scale * sum(seen)


def _simplex(d: int, features: jax.Array) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """Of points [N, d]: remainder-0 vertices of their simplices, ranks of their offsets from them (0: the largest), offsets; d + 1 of each."""
    width = math.sqrt(2 / 3) * (d + 1)  # of the blur, in lattice units: undone here
    total, elevated = jnp.zeros_like(features[:, 0]), [None] * (d + 1)
    for j in range(d, 0, -1):
        scaled = features[:, j - 1] * np.float32(width / math.sqrt(j * (j + 1)))
        elevated[j] = total - j * scaled
        total += scaled
    elevated[0] = total

    rounded = [jnp.round(e * np.float32(1 / (d + 1))) for e in elevated]
    excess = sum(rounded).astype(jnp.int32)
    nearest = [(r * (d + 1)).astype(jnp.int32) for r in rounded]
    distance = [e - n for e, n in zip(elevated, nearest, strict=True)]
    rank = [excess] * (d + 1)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            below = distance[i] < distance[j]
            rank[i] = rank[i] + below
            rank[j] = rank[j] + ~below
    # where the coordinates did not sum to 0, the farthest are moved on by one vertex
    low, high = [r < 0 for r in rank], [r > d for r in rank]
    shift = [(d + 1) * (a.astype(jnp.int32) - b.astype(jnp.int32)) for a, b in zip(low, high, strict=True)]
    rank = [r + s for r, s in zip(rank, shift, strict=True)]
    nearest = [n + s for n, s in zip(nearest, shift, strict=True)]

    return nearest, rank, [e - n for e, n in zip(elevated, nearest, strict=True)]


def _barycentric(rank: list[jax.Array], offset: list[jax.Array]) -> jax.Array:
    """Weights [N, d + 1] of the vertices of each simplex: differences of the ordered offsets."""
    d = len(rank) - 1
    corner = jnp.arange(d + 1)

    def ordered(place: jax.Array) -> jax.Array:
        return sum(jnp.where(r[:, None] == place, o[:, None] * np.float32(1 / (d + 1)), 0) for r, o in zip(rank, offset, strict=True))

    return ordered(d - corner) - ordered((d - corner + 1) % (d + 1)) + (corner == 0)


def _places(limits: Sequence[float]) -> tuple[list[tuple[int, int, int]], jax.Array]:
    """How coordinates are packed: (word, radix, least) of each but the last, and the packed steps to the neighbours [d + 1, W].

    The last coordinate follows from the others. Each of those has a range, known from `limits`, that leaves room for the
    vertices around a simplex and for their neighbours; coordinates less the least of their range are the digits of
    mixed-radix numbers of 32 bits.
    """
    d = len(limits)
    largest = [limit * math.sqrt(2 / 3) * (d + 1) / math.sqrt((j + 1) * (j + 2)) for j, limit in enumerate(limits)]
    margin = 3 * (d + 1)
    places, word, radix = [], 0, 1
    for j in range(d):
        least = math.floor(-j * largest[j - 1] if j else 0) - margin
        extent = math.ceil(sum(largest[j:])) + margin - least
        if extent > 2**20:  # float32 has hardly a digit left for the weights
            raise ValueError(f"features up to {max(limits)} standard deviations do not fit the lattice")
        if radix * extent > 2**32:
            word, radix = word + 1, 1
        places.append((word, radix, least))
        radix *= extent
    # a step along axis j takes 1 from every coordinate and adds d + 1 to coordinate j
    steps = np.zeros((d + 1, word + 1), np.int64)
    for axis in range(d + 1):
        for j, (word, radix, _) in enumerate(places):
            steps[axis, word] += (d * (j == axis) - (j != axis)) * radix
    return places, jnp.asarray(steps.astype(np.uint32))


def _pack(nearest: list[jax.Array], rank: list[jax.Array], places: list[tuple[int, int, int]]) -> tuple[jax.Array, ...]:
    """The words of the d + 1 vertices of each simplex, [N, d + 1] each."""
    d = len(places)
    corner = jnp.arange(d + 1)
    words = [jnp.uint32(0)] * (places[-1][0] + 1)
    for r, n, (word, radix, least) in zip(rank[:d], nearest[:d], places, strict=True):
        coordinate = n[:, None] + jnp.where(r[:, None] > d - corner, corner - (d + 1), corner) - least
        words[word] += coordinate.astype(jnp.uint32) * np.uint32(radix)
    return tuple(words)


def _slot(words: tuple[jax.Array, ...], attempt: jax.Array, size: int) -> jax.Array:
    """Where a vertex lies in a table of `size` (a power of 2) at its attempt 0, 1, ...: double hashing."""
    first, second = jnp.zeros_like(words[0]), jnp.zeros_like(words[0])
    for word in words:
        first = (first ^ word) * np.uint32(0x9E3779B1)
        first ^= first >> 15
        second = (second ^ word) * np.uint32(0x85EBCA77)
        second ^= second >> 13
    first = (first * np.uint32(0xC2B2AE3D)) ^ (first >> 16)
    return ((first + attempt.astype(jnp.uint32) * (second | 1)) & np.uint32(size - 1)).astype(jnp.int32)


def _same(words: tuple[jax.Array, ...], others: tuple[jax.Array, ...], index: jax.Array) -> jax.Array:
    return jnp.stack([word == other.at[index].get(mode="promise_in_bounds") for word, other in zip(words, others, strict=True)]).all(0)


def _insert(words: tuple[jax.Array, ...], pending: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A hash table of pairs, and of each pair the owner of its slot: the first pair with the same words.

    Pairs with the same words try the same slots at the same time. Of those that meet at a free slot, the first pair becomes
    its owner, and all that have its words are done; the others try on.
    """
    (pairs,) = pending.shape
    size = 1 << math.ceil(math.log2(1.5 * pairs))

    def attempt(state):
        number, table, owners, pending = state
        slot = _slot(words, number, size)
        free = table.at[slot].get(mode="promise_in_bounds") == _EMPTY
        table = table.at[jnp.where(pending & free, slot, size)].min(jnp.arange(pairs, dtype=jnp.int32), mode="drop")
        owner = jnp.minimum(table.at[slot].get(mode="promise_in_bounds"), pairs - 1)
        done = pending & _same(words, words, owner)
        return number + 1, table, jnp.where(done, owner, owners), pending & ~done

    start = jnp.int32(0), jnp.full(size, _EMPTY, jnp.int32), jnp.zeros(pairs, jnp.int32), pending
    _, table, owners, _ = jax.lax.while_loop(lambda state: state[3].any(), attempt, start)
    return table, owners


def _look_up(vertices: Vertices, words: tuple[jax.Array, ...], pending: jax.Array) -> jax.Array:
    """Numbers of the vertices with these words, [M] each; -1 where there is none, or nothing is asked."""

    def attempt(state):
        number, found, pending = state
        slot = _slot(words, number, len(vertices.table))
        owner = vertices.table.at[slot].get(mode="promise_in_bounds")
        taken = pending & (owner != _EMPTY)
        same = taken & _same(words, vertices.words, jnp.where(taken, owner, 0))
        return number + 1, jnp.where(same, vertices.numbers.at[owner].get(mode="promise_in_bounds"), found), taken & ~same

    start = jnp.int32(0), jnp.full(pending.shape, -1, jnp.int32), pending
    return jax.lax.while_loop(lambda state: state[2].any(), attempt, start)[1]


def _running_count(flags: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(how many True come before each of `flags`, how many there are). A scan of columns: several times faster than cumsum on CPU."""
    padded = jnp.pad(flags, (0, -len(flags) % 1024)).reshape(1024, -1).T.astype(jnp.int32)
    totals, before = jax.lax.scan(lambda total, column: (total + column, total), jnp.zeros_like(padded[0]), padded)
    ends = jnp.cumsum(totals)
    return (before + (ends - totals)).T.reshape(-1)[: len(flags)], ends[-1]
