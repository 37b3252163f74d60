"""Pixel labels from polygons and run lengths."""

import numpy as np
import pytest
from conftest import run_lengths

from auxseg_jax.data import masks
from auxseg_jax.data.listing import Objects


def packed(counts):
    """Run lengths as COCO packs them into text (the inverse of `masks._unpack`)."""
    text = ""
    for k, count in enumerate(counts):
        value = count - counts[k - 2] if k > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def test_run_lengths_of_both_forms(rng):
    for density in (0.0, 0.02, 0.5, 1.0):
        plane = rng.random((70, 90)) < density
        counts = run_lengths(plane)
        for form in (counts, packed(counts)):
            np.testing.assert_array_equal(
                masks.region({"size": [70, 90], "counts": form}, (70, 90)), plane
            )


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 4], "counts": [-4, 20]},
        {"size": [4, 4], "counts": "?"},
        {"size": [4, 4], "counts": "P"},
        {"counts": [16]},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": [None]},
        {"size": [4, 4], "counts": [16.0]},
        {"size": [4, 4], "counts": [10**400]},
        [[0, 0, 1, 1, 2]],
        [[0, 0, 1, float("nan"), 2, 2]],
        [[-1e308, -1e308, 1e308, 1e308, 0, 20]],
        [{"a": 1}],
        [7],
    ],
)
def test_broken_segmentations(segmentation):
    with pytest.raises(ValueError, match=r"run lengths|polygon"):
        masks.region(segmentation, (4, 4))


def test_polygons_cover_the_centres_inside(rng):
    """Against a plain ray casting for every pixel."""
    size = 17, 23
    for corners in (3, 4, 7, 12):
        points = rng.uniform(-4, 27, (corners, 2))
        twin = np.zeros(size, bool)
        for i in range(size[0]):
            for j in range(size[1]):
                for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
                    if (y0 <= i + 0.5) != (y1 <= i + 0.5) and j + 0.5 >= x0 + (i + 0.5 - y0) / (
                        y1 - y0
                    ) * (x1 - x0):
                        twin[i, j] ^= True
        np.testing.assert_array_equal(masks.polygon_region(points.reshape(-1).tolist(), size), twin)


def test_smaller_objects_lie_over_larger():
    large, small = [[0, 0, 8, 0, 8, 8, 0, 8]], [[2, 2, 4, 2, 4, 4, 2, 4]]
    expected = np.ones((8, 8), np.uint8)
    expected[2:4, 2:4] = 2
    for parts in (((1, 64, large), (2, 4, small)), ((2, 4, small), (1, 64, large))):
        np.testing.assert_array_equal(masks.paint(Objects((8, 8), parts)), expected)
