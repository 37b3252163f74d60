"""Whole photos through windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxseg_jax.grid import Grid
from auxseg_jax.inference import windows
from auxseg_jax.inference.windows import over_windows

GRID = Grid(4, 1)
WINDOW = 17  # 5 cells.


def batch_of(rng, height, width, cells):
    """A photo of `height` x `width` cells in a bucket of `cells`."""
    size = [GRID.pixels(n) for n in cells]
    image = np.zeros((1, *size, 3), np.float32)
    inside = np.zeros((1, *size), bool)
    pixels = GRID.pixels(height), GRID.pixels(width)
    image[:, : pixels[0], : pixels[1]] = rng.normal(size=(1, *pixels, 3))
    inside[:, : pixels[0], : pixels[1]] = True
    return image, inside


def of_window(image, inside, *maps):
    """Something that tells one window from another, on the feature grid; NaN without any photo."""
    here = inside[..., None]
    mean = (image * here).sum((1, 2), keepdims=True) / here.sum((1, 2), keepdims=True)
    return {"mean": mean + image[:, ::4, ::4], "maps": maps}


def twin(image, height, width, starts):
    """The same with loops, for one photo without padding."""
    total, weights = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for row in starts[0]:
        for column in starts[1]:
            rows, columns = min(5, height), min(5, width)
            part = image[4 * row :, 4 * column :][: GRID.pixels(rows), : GRID.pixels(columns)]
            values = part.mean((0, 1)) + part[::4, ::4]
            for i in range(rows):
                for j in range(columns):
                    weight = min(i + 1, rows - i) * min(j + 1, columns - j)
                    total[row + i, column + j] += weight * values[i, j]
                    weights[row + i, column + j] += weight
    return total / weights


@pytest.mark.parametrize(
    "height, width, starts",
    [(7, 12, [(0, 2), (0, 2, 5, 7)]), (5, 8, [(0,), (0, 3)]), (3, 6, [(0,), (0, 1)])],
)
def test_windows_agree_with_loops(rng, height, width, starts):
    image, inside = batch_of(rng, height, width, (height, width))
    found = over_windows(of_window, image, inside, window=WINDOW, grid=GRID)["mean"]
    np.testing.assert_allclose(found[0], twin(image[0], height, width, starts), atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_photo_gives_the_same_in_every_bucket(rng, mirrored):
    """Between photos of other sizes, too: each has windows of its own."""
    one, inside = batch_of(rng, 6, 9, (6, 9))
    # So wide that some windows of the other photo would hold nothing of this one.
    bucket = np.zeros((2, *map(GRID.pixels, (8, 24)), 3), np.float32)
    held = np.zeros(bucket.shape[:3], bool)
    bucket[0, : one.shape[1], : one.shape[2]], held[0, : one.shape[1], : one.shape[2]] = (
        one[0],
        True,
    )
    bucket[1], held[1] = rng.normal(size=bucket.shape[1:]), True
    maps = jnp.asarray(rng.normal(size=(2, 8, 24, 2)), jnp.float32)
    if mirrored:
        one, bucket, held = one[:, :, ::-1], bucket[:, :, ::-1], held[:, :, ::-1]
    see = jax.jit(lambda *x: over_windows(of_window, *x, window=WINDOW, grid=GRID))
    alone = see(one, inside)["mean"][0]
    among = see(bucket, held, [maps])
    columns = slice(15, None) if mirrored else slice(0, 9)
    np.testing.assert_allclose(among["mean"][0, :6, columns], alone, atol=1e-5)
    np.testing.assert_allclose(among["maps"][0][1], maps[1], atol=1e-5)


@pytest.mark.parametrize("remainder", [0, 1, 2, 3])
def test_windows_do_not_depend_on_the_bucket(remainder):
    grid = Grid(4, remainder)

    def places(size, bucket, begin=0):
        present = np.zeros((1, bucket), bool)
        present[:, begin : begin + size] = True
        line = windows._line(present, grid.cells(bucket), 5, grid)
        assert line.nearest.min() == begin // 4 and line.nearest.max() < grid.cells(bucket)
        return (np.asarray(line.first - begin // 4)[np.asarray(line.is_used)]).tolist()

    large = grid.pixels(20)
    for size in range(grid.pixels(6), grid.pixels(15), 3):
        assert places(size, large) == places(size, grid.at_least(size)), size
    for size in map(grid.pixels, (6, 9, 14)):  # Mirrored, it is the end of the bucket.
        assert places(size, large, large - size) == places(size, size), size


def test_beyond_a_photo_its_edge_goes_on(rng):
    """Otherwise an interpolation would mix in zeros."""
    image, inside = batch_of(rng, 5, 9, (5, 14))
    ones = jnp.ones((1, 5, 14, 1))
    options = {"window": WINDOW, "grid": GRID}
    found = over_windows(lambda image, inside, plane: plane, image, inside, [ones], **options)
    np.testing.assert_allclose(found, 1, rtol=1e-6)


def test_a_photo_that_fits_in_a_window_is_seen_whole(rng):
    image, inside = batch_of(rng, 4, 5, (5, 5))
    for window in (WINDOW, 0):
        found = over_windows(of_window, image, inside, window=window, grid=GRID)["mean"]
        np.testing.assert_array_equal(found, of_window(image, inside)["mean"])
