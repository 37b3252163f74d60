"""What affinities look at, on a coarse grid of cells.

Letters: S affinities (the fused one and its sources), Q cells.
"""

from collections.abc import Sequence

import numpy as np

from auxseg_jax.pixel_labels import IGNORE


def cells_of(plane: np.ndarray, grid: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Returns what a plane of a photo has in the middle of each cell.

    Args:
      plane: [H, W, ...].
      grid: rows and columns of the cells.
      extent: how many of them hold the photo; of the last one perhaps a part.

    Returns:
      [Q, ...], Q = rows * columns.
    """
    lines = []
    for count, held, size in zip(grid, extent, plane.shape[:2], strict=True):
        middles = np.minimum(np.arange(count) + 0.5, held - 1e-3)
        lines.append(np.minimum((middles * size / held).astype(int), size - 1))
    return plane[lines[0][:, None], lines[1]].reshape(-1, *plane.shape[2:])


def rows_of(levels: np.ndarray) -> np.ndarray:
    """Returns the rows that `explain.affinity_maps` keeps as levels, each scaled to sum to 1.

    Args:
      levels: uint8 [S, Q, Q], square roots.
    """
    rows = levels.astype(np.float64) ** 2
    return rows / np.maximum(rows.sum(-1, keepdims=True), 1e-12)


def own_share(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns which share of a row lies on cells of the row's own group, a mean over the rows.

    Cells of the group 255 do not count, neither as rows nor as what is looked at.

    Args:
      rows: [S, Q, Q], that sum to 1.
      groups: uint8 [Q], labels say.

    Returns:
      The share of each affinity, [S], 0..1; NaN if no cell has a group.
    """
    known = groups != IGNORE
    if not known.any():
        return np.full(len(rows), np.nan)
    rows, groups = rows[:, known][:, :, known], groups[known]
    same = groups[:, None] == groups
    total = np.maximum(rows.sum(-1), 1e-12)
    return ((rows * same).sum(-1) / total).mean(-1)


def colour_distance(rows: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns how far, in levels, the colours are that a cell looks at, a mean over the rows.

    Args:
      rows: [S, Q, Q], that sum to 1.
      colours: [Q, 3].

    Returns:
      [S].
    """
    colours = colours.astype(np.float64)
    distance = np.linalg.norm(colours[:, None] - colours, axis=-1)
    return (rows * distance).sum(-1).mean(-1)


def mean_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of arrays, without what is NaN; NaN where all are."""
    stacked = np.stack(values).astype(np.float64)
    known = ~np.isnan(stacked)
    count = known.sum(0)
    return np.where(count, np.where(known, stacked, 0).sum(0) / np.maximum(count, 1), np.nan)
