"""Whole photos through windows of the size of the training crops.

A network that is trained on crops sees the edge of a crop nearby, wherever it looks: its dilated
convolutions reach beyond it, and its affinities share a sum of 1 among the cells of a crop. On a
larger photo both are of a kind that it has not learned. Windows that overlap show it what it knows
(docs/affinity.md has measurements).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid

_OVERLAP = 1 / 3
"""Least share of a window that the next one sees, too."""


class _Line(NamedTuple):
    """Windows along one axis.

    Attributes:
      length: cells of a window.
      first: first cell of each window of each photo.
      is_used: a smaller photo needs fewer windows than the batch has.
      nearest: the cell of the photo that is nearest to each cell of the batch.
    """

    length: int
    first: Int[Array, "B K"]
    is_used: Bool[Array, "B K"]
    nearest: Int[Array, "B n"]


def over_windows(
    function: Callable[..., Any],
    image: Float[Array, "B H W 3"],
    inside: Bool[Array, "B H W"],
    maps: Sequence[Float[Array, "B h w _"]] = (),
    *,
    window: int,
    grid: Grid,
) -> Any:
    """Applies a function of photos to windows of them, and puts the results together.

    Windows lie evenly over the photo, not over its padding, so that a photo gives the same in every
    bucket. Where they overlap, the result is a mean, with less weight towards the edge of a window.

    Args:
      function: (image, inside, *maps) -> tree of maps [B, h, w, _] on the feature grid.
      image: a batch of photos at a size of the grid, normalised.
      inside: photo and not padding.
      maps: what else the function is given, on the feature grid.
      window: size of the training crops, pixels. A photo that fits in one is seen whole, and so are
        all with 0.
      grid: sizes that suit the network.

    Returns:
      The tree of the function, of the whole photos.
    """
    height, width = map(grid.cells, image.shape[1:3])
    side = grid.cells(window) if window else max(height, width)
    if max(height, width) <= side:
        return function(image, inside, *maps)
    lines = [
        _line(inside.any(axis), cells, side, grid) for axis, cells in ((2, height), (1, width))
    ]
    rows, columns = lines
    size = rows.length, columns.length
    corners = jnp.stack(_pairs(rows.first, columns.first), -1)
    is_used = jnp.logical_and(*_pairs(rows.is_used, columns.is_used))
    starts, pixels = corners * grid.stride, tuple(map(grid.pixels, size))
    parts = [_cut(image, starts, pixels), _cut(inside, starts, pixels)]
    seen = function(*parts, *(_cut(plane, corners, size) for plane in maps))
    weights = [jnp.minimum(jnp.arange(n) + 1, n - jnp.arange(n)) for n in size]
    weight = (weights[0][:, None] * weights[1]).astype(jnp.float32) * is_used[..., None, None]
    total = _paste(weight[..., None], corners, (height, width))

    def merge(values: Array) -> Array:
        values = values.reshape(*corners.shape[:2], *values.shape[1:])
        pasted = _paste(values * weight[..., None], corners, (height, width))
        mean = pasted / jnp.maximum(total, 1)
        # Beyond the photo there are no windows, but whoever interpolates looks there.
        spread = jax.vmap(lambda plane, i, j: plane[i][:, j])
        return spread(mean, rows.nearest, columns.nearest)

    return jax.tree.map(merge, seen)


def area(height: float, width: float, window: int) -> float:
    """Returns how many pixels the windows of a photo have together; 0: it is seen whole."""
    lengths = [min(window or side, side) for side in (height, width)]
    counts = [_count(n, length) for n, length in zip((height, width), lengths, strict=True)]
    return math.prod(lengths) * math.prod(counts)


def _step(length: float) -> int:
    return max(math.floor(length * (1 - _OVERLAP)), 1)


def _count(size: float, length: float) -> int:
    """Returns how many windows of a length cover a size."""
    return math.ceil((size - length) / _step(length)) + 1


def _line(present: Bool[Array, "B n"], cells: int, side: int, grid: Grid) -> _Line:
    """Places windows along one axis, over the cells that hold the photo."""
    length = min(side, cells)
    step, count = _step(length), _count(cells, length)
    # A mirrored photo has its padding in front.
    begin, pixels = present.argmax(1)[:, None], present.sum(1)[:, None]
    end = begin + pixels + (grid.stride - grid.remainder if grid.remainder else 0)
    begin, end = begin // grid.stride, jnp.minimum((end - 1) // grid.stride + 1, cells)
    room = jnp.maximum(end - begin - length, 0)
    needed = -(-room // step) + 1
    order = jnp.arange(count)
    # One that is not used repeats the last, so that there is something to see in it.
    place = jnp.minimum(order, needed - 1)
    first = begin + (place * room + (needed - 1) // 2) // jnp.maximum(needed - 1, 1)
    first = jnp.clip(first, 0, cells - length)
    return _Line(length, first, order < needed, jnp.clip(jnp.arange(cells), begin, end - 1))


def _pairs(
    rows: Shaped[Array, "B R"], columns: Shaped[Array, "B C"]
) -> list[Shaped[Array, "B R*C"]]:
    """Returns both for each window, row by row."""
    pairs = jnp.broadcast_arrays(rows[:, :, None], columns[:, None])
    return [values.reshape(len(values), -1) for values in pairs]


def _cut(planes: Array, corners: Int[Array, "B K 2"], size: tuple[int, int]) -> Array:
    """Cuts windows out of [B, H, W, ...]: [B * K, *size, ...]."""

    def cut(plane: Array, corner: Array) -> Array:
        rest = plane.shape[2:]
        start = (*corner, *(0 for _ in rest))
        return jax.lax.dynamic_slice(plane, start, (*size, *rest))

    parts = jax.vmap(jax.vmap(cut, (None, 0)))(planes, corners)
    return parts.reshape(-1, *parts.shape[2:])


def _paste(
    parts: Float[Array, "B K a b C"], corners: Int[Array, "B K 2"], size: tuple[int, int]
) -> Float[Array, "B h w C"]:
    """Adds up parts at their places."""

    def paste(planes: Array, window: tuple[Array, Array]) -> tuple[Array, None]:
        part, corner = window
        start = (*corner, 0)
        here = jax.lax.dynamic_slice(planes, start, part.shape)
        return jax.lax.dynamic_update_slice(planes, here + part, start), None

    zeros = jnp.zeros((*size, parts.shape[-1]), parts.dtype)
    return jax.vmap(lambda *photo: jax.lax.scan(paste, zeros, photo)[0])(parts, corners)
