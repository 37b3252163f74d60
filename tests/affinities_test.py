"""Figures of affinities, on made-up ones."""

import numpy as np
import pytest

from auxseg_jax.evaluation import affinities

GROUPS = np.array([0, 0, 0, 1, 1, 2, 255, 255], np.uint8)
COLOURS = np.array([[0, 0, 0]] * 3 + [[30, 40, 0]] * 5, np.uint8)
IDENTITY = np.eye(8)
UNIFORM = np.full((8, 8), 1 / 8)
BLOCKS = (GROUPS[:, None] == GROUPS) / (GROUPS[:, None] == GROUPS).sum(1, keepdims=True)
APART = (GROUPS[:, None] != GROUPS) / (GROUPS[:, None] != GROUPS).sum(1, keepdims=True)
EVERY = np.stack([IDENTITY, UNIFORM, BLOCKS, APART])


def test_share_on_the_own_group():
    uniform = (9 + 4 + 1) / 36
    assert affinities.own_share(EVERY, GROUPS) == pytest.approx([1, uniform, 1, 0])
    assert np.isnan(affinities.own_share(EVERY, np.full(8, 255, np.uint8))).all()


def test_distance_of_colours():
    distance = affinities.colour_distance(EVERY, COLOURS)
    of_all = 50 * 2 * 3 * 5 / 64
    assert distance == pytest.approx([0, of_all, 0, distance[3]]) and distance[3] > of_all


def test_a_mean_leaves_out_what_is_not_known():
    found = affinities.mean_known([np.array([1.0, np.nan, np.nan]), np.array([3.0, 4.0, np.nan])])
    np.testing.assert_array_equal(found, [2.0, 4.0, np.nan])


def test_levels_become_rows_again():
    rows = np.array([[[0.8, 0.2], [0.5, 0.5]]])
    levels = np.round(255 * np.sqrt(rows / rows.max(-1, keepdims=True))).astype(np.uint8)
    np.testing.assert_allclose(affinities.rows_of(levels), rows, atol=2e-3)


def test_middles_of_cells():
    plane = np.arange(48).reshape(6, 8)
    found = affinities.cells_of(plane, np.array([3, 4]), np.array([3.0, 4.0]))
    np.testing.assert_array_equal(found, plane[1::2, 1::2].ravel())
    # Of the last row of cells only a part is photo: its middle would be below the edge.
    found = affinities.cells_of(plane, np.array([3, 4]), np.array([2.25, 4.0]))
    np.testing.assert_array_equal(found, plane[[1, 4, 5]][:, 1::2].ravel())
