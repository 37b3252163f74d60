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
    shares, uniform = affinities.own_share(EVERY, GROUPS)
    assert uniform == pytest.approx((9 + 4 + 1) / 36)
    assert shares == pytest.approx([1, uniform, 1, 0])
    shares, uniform = affinities.own_share(EVERY, np.full(8, 255, np.uint8))
    assert np.isnan(shares).all() and np.isnan(uniform)


def test_contrast_of_colours():
    contrast = affinities.colour_contrast(EVERY, COLOURS)
    assert contrast == pytest.approx([0, 1, 0, contrast[3]]) and contrast[3] > 1
    assert affinities.colour_contrast(EVERY, np.zeros((8, 3))).tolist() == [0, 0, 0, 0]


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
