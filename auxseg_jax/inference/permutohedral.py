"""The permutohedral lattice: a Gaussian filter over points of a feature space of few dimensions.

Its time is linear in the points. Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice", Eurographics 2010, as the dense CRF of Krähenbühl and Koltun
(arXiv 1210.5644) uses it. A point lies in a simplex of d + 1 lattice vertices. Its value is splat
on them with barycentric weights, the vertices that any point has touched are blurred with [1/2, 1,
1/2] along each of the d + 1 axes in turn, and the point reads its result from its own vertices
(slice).

Which vertices there are depends on the points. They are found in a hash table on the device, with
shapes that depend on the number of points alone. `with_capacity` then cuts the tables to a number
of vertices that holds them.

Letters: N points, d dimensions, V vertices.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from auxseg_jax.arrays import Array
from auxseg_jax.errors import UserError
from auxseg_jax.inference import hash_table


class Vertices(NamedTuple):
    """The vertices that N points touch.

    Attributes:
      ids: int32 [N, d + 1], numbers 0..count - 1 of the vertices of each point's simplex; -1 for
        points left out.
      weights: float32 [N, d + 1], barycentric, sum 1 over the last axis; 0 for points left out.
      count: int32, how many vertices there are.
      words: uint32 [N (d + 1)] each, the coordinates of each point's vertices, packed.
      table: int32 [T], hash table: the first of the N (d + 1) pairs that touch a vertex;
        `hash_table.EMPTY` where it is free.
      numbers: int32 [N (d + 1)], the number of the vertex of each pair in the table.
      steps: uint32 [d + 1, W], what must be added to the words for the neighbour along each axis.
    """

    ids: Array
    weights: Array
    count: Array
    words: tuple[Array, ...]
    table: Array
    numbers: Array
    steps: Array


class Lattice(NamedTuple):
    """Vertices, cut to a capacity V, with their neighbours.

    Row V of any array of vertices is 0 and stands for "none".

    Attributes:
      ids: int32 [d + 1, N], in 0..V.
      weights: float32 [d + 1, N].
      neighbours: int32 [d + 1, 2, V + 1], along each axis, in 0..V.
    """

    ids: Array
    weights: Array
    neighbours: Array


def find_vertices(features: Array, inside: Array, limits: Sequence[float]) -> Vertices:
    """Finds the vertices of points in the lattice whose filter is a Gaussian of deviation 1.

    Args:
      features: float32 [N, d].
      inside: bool [N]; points that are False touch no vertex.
      limits: the largest value of each feature (the least is 0). With them the coordinates are
        packed in few words.
    """
    places, steps = _places(limits)
    embed = functools.partial(_simplex, len(limits))
    # They are a branch of their own, because XLA would fuse the simplices into every reader of
    # them, and compute them many times.
    nearest, rank, offset = jax.lax.cond(
        inside.any(), embed, lambda x: jax.tree.map(jnp.zeros_like, embed(x)), features
    )
    words, weights = _pack(nearest, rank, places), _barycentric(rank, offset)
    words = tuple(word.reshape(-1) for word in words)
    touched = jnp.broadcast_to(inside[:, None], weights.shape)
    table, owners = hash_table.insert(words, touched.reshape(-1))
    # Numbers follow the order of the points: neighbours in the photo are neighbours in memory.
    numbers, count = _running_count(touched.reshape(-1) & (owners == jnp.arange(owners.size)))
    ids = jnp.where(touched, numbers[owners].reshape(weights.shape), -1)
    return Vertices(ids, jnp.where(touched, weights, 0), count, words, table, numbers, steps)


def with_capacity(vertices: Vertices, capacity: int) -> Lattice:
    """Returns the lattice with room for `capacity` vertices, which must not be below `count`."""
    ids = jnp.where(vertices.ids < 0, capacity, vertices.ids)
    known = jnp.arange(capacity) < vertices.count
    # The pairs of one vertex write the same words.
    blank = jnp.zeros(capacity + 1, jnp.uint32)
    words = [blank.at[ids.reshape(-1)].set(word)[:capacity] for word in vertices.words]

    axes = len(vertices.steps)
    targets = tuple(
        (word + steps[:, None]).reshape(-1)
        for word, steps in zip(words, vertices.steps.T, strict=True)
    )
    numbers = hash_table.look_up(
        (vertices.table, vertices.words, vertices.numbers), targets, jnp.tile(known, axes)
    ).reshape(axes, capacity)
    after = jnp.where(numbers < 0, capacity, numbers)
    none = jnp.full((axes, capacity + 1), capacity, jnp.int32)
    before = none.at[jnp.arange(axes)[:, None], after].set(jnp.arange(capacity, dtype=jnp.int32))
    neighbours = jnp.stack([none.at[:, :-1].set(after), before.at[:, -1].set(capacity)], 1)
    return Lattice(ids.T, vertices.weights.T, neighbours)


def most_vertices(points: int, limits: Sequence[float]) -> int:
    """Returns what the number of vertices cannot exceed.

    It is the number of all corners, or of all vertices that are near the box of the features. A
    unit of feature space holds (2/3)^(d/2) sqrt(d + 1) vertices. Those that are touched lie within
    the longest edge of a simplex of the box, and their Voronoi cells within that of them.
    """
    d = len(limits)
    half = (d + 1) // 2
    edge = math.sqrt(half * (d + 1 - half) / (d + 1) * 3 / 2)
    volume = math.prod(limit + 4 * edge for limit in limits)
    density = (2 / 3) ** (d / 2) * math.sqrt(d + 1)
    return min(points * (d + 1), math.ceil(volume * density))


def blur(lattice: Lattice, values: Array) -> Array:
    """Applies the Gaussian filter, not normalised, to values [N, C]; 0 for points left out."""
    corners, _, rows = lattice.neighbours.shape

    def splat(state: Array, corner: tuple[Array, Array]) -> tuple[Array, None]:
        ids, weights = corner
        return state.at[ids].add(weights[:, None] * values, mode="promise_in_bounds"), None

    blank = jnp.zeros((rows, values.shape[-1]), values.dtype)
    state, _ = jax.lax.scan(splat, blank, (lattice.ids, lattice.weights))
    state = state.at[-1].set(0)

    def along(state: Array, ends: Array) -> tuple[Array, None]:
        first, second = (state.at[end].get(mode="promise_in_bounds") for end in ends)
        return state + 0.5 * (first + second), None

    # It is a scan, because XLA fuses unrolled gathers of gathers, and computes them again and
    # again.
    state, _ = jax.lax.scan(along, state, lattice.neighbours)
    scale = 1 / (1 + 2.0 ** -(corners - 1))
    corner_values = (
        weights[:, None] * state.at[ids].get(mode="promise_in_bounds")
        for ids, weights in zip(lattice.ids, lattice.weights, strict=True)
    )
    return scale * sum(corner_values)


def _simplex(d: int, features: Array) -> tuple[list[Array], list[Array], list[Array]]:
    """Finds the simplices of points [N, d].

    Returns:
      d + 1 of each: the coordinates of the remainder-0 vertices of the simplices, the ranks of the
      points' offsets from them (0: the largest), and the offsets.
    """
    width = math.sqrt(2 / 3) * (d + 1)  # The blur's width in lattice units is undone here.
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
    # Where the coordinates do not sum to 0, the farthest are moved on by one vertex.
    low, high = [r < 0 for r in rank], [r > d for r in rank]
    shift = [
        (d + 1) * (a.astype(jnp.int32) - b.astype(jnp.int32))
        for a, b in zip(low, high, strict=True)
    ]
    rank = [r + s for r, s in zip(rank, shift, strict=True)]
    nearest = [n + s for n, s in zip(nearest, shift, strict=True)]

    return nearest, rank, [e - n for e, n in zip(elevated, nearest, strict=True)]


def _barycentric(rank: list[Array], offset: list[Array]) -> Array:
    """Returns the weights [N, d + 1] of the vertices of each simplex.

    They are the differences of the ordered offsets.
    """
    d = len(rank) - 1
    corner = jnp.arange(d + 1)

    def ordered(place: Array) -> Array:
        return sum(
            jnp.where(r[:, None] == place, o[:, None] * np.float32(1 / (d + 1)), 0)
            for r, o in zip(rank, offset, strict=True)
        )

    return ordered(d - corner) - ordered((d - corner + 1) % (d + 1)) + (corner == 0)


def _places(limits: Sequence[float]) -> tuple[list[tuple[int, int, int]], Array]:
    """Plans how coordinates are packed.

    The last coordinate follows from the others. Each of those has a range, known from `limits`,
    that leaves room for the vertices around a simplex and for their neighbours. Coordinates less
    the least of their range are the digits of mixed-radix numbers of 32 bits.

    Returns:
      (word, radix, least) of each coordinate but the last, and the packed steps to the neighbours
      [d + 1, W].
    """
    d = len(limits)
    largest = [
        limit * math.sqrt(2 / 3) * (d + 1) / math.sqrt((j + 1) * (j + 2))
        for j, limit in enumerate(limits)
    ]
    margin = 3 * (d + 1)
    places, word, radix = [], 0, 1
    for j in range(d):
        least = math.floor(-j * largest[j - 1] if j else 0) - margin
        extent = math.ceil(sum(largest[j:])) + margin - least
        if extent > 2**20:  # float32 has hardly a digit left for the weights.
            raise UserError(
                f"features up to {max(limits)} standard deviations do not fit the lattice"
            )
        if radix * extent > 2**32:
            word, radix = word + 1, 1
        places.append((word, radix, least))
        radix *= extent
    # A step along axis j takes 1 from every coordinate and adds d + 1 to coordinate j.
    steps = np.zeros((d + 1, word + 1), np.int64)
    for axis in range(d + 1):
        for j, (word, radix, _) in enumerate(places):
            steps[axis, word] += (d * (j == axis) - (j != axis)) * radix
    return places, jnp.asarray(steps.astype(np.uint32))


def _pack(
    nearest: list[Array], rank: list[Array], places: list[tuple[int, int, int]]
) -> tuple[Array, ...]:
    """Returns the words of the d + 1 vertices of each simplex, [N, d + 1] each."""
    d = len(places)
    corner = jnp.arange(d + 1)
    words = [jnp.uint32(0)] * (places[-1][0] + 1)
    for r, n, (word, radix, least) in zip(rank[:d], nearest[:d], places, strict=True):
        step = jnp.where(r[:, None] > d - corner, corner - (d + 1), corner)
        coordinate = n[:, None] + step - least
        words[word] += coordinate.astype(jnp.uint32) * np.uint32(radix)
    return tuple(words)


def _running_count(flags: Array) -> tuple[Array, Array]:
    """Returns how many True come before each of `flags`, and how many there are.

    On CPU a scan of columns is several times faster than cumsum. On an H200 it took most of the
    CRF's time.
    """
    return jax.lax.platform_dependent(flags, cpu=_count_by_columns, default=_count_by_cumsum)


def _count_by_cumsum(flags: Array) -> tuple[Array, Array]:
    ends = jnp.cumsum(flags, dtype=jnp.int32)
    return ends - flags, ends[-1]


def _count_by_columns(flags: Array) -> tuple[Array, Array]:
    padded = jnp.pad(flags, (0, -len(flags) % 1024)).reshape(1024, -1).T.astype(jnp.int32)
    totals, before = jax.lax.scan(
        lambda total, column: (total + column, total), jnp.zeros_like(padded[0]), padded
    )
    ends = jnp.cumsum(totals)
    return (before + (ends - totals)).T.reshape(-1)[: len(flags)], ends[-1]
