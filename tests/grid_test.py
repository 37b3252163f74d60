"""Sizes on which a network samples as in training."""

import jax.numpy as jnp
import numpy as np

from auxseg_jax.grid import Grid
from auxseg_jax.inference.views import views
from auxseg_jax.models.depthwise import depthwise_conv


def test_sizes_of_the_grid():
    for grid in (Grid(16, 0), Grid(8, 1), Grid(1, 0)):
        sizes = [n for n in range(1, 200) if n % grid.stride == grid.remainder]
        for n in range(1, 150):
            assert grid.at_least(n) == min(s for s in sizes if s >= n)
            assert abs(grid.nearest(n) - n) == min(abs(s - n) for s in sizes)
        for size in sizes:
            assert grid.cells(size) == -(-size // grid.stride)
            assert grid.pixels(grid.cells(size)) == size


def test_a_strided_network_samples_alike_on_the_grid_and_not_off_it(rng):
    photo = rng.normal(size=(1, 9, 9, 2)).astype(np.float32)
    kernels = [jnp.asarray(rng.normal(size=(3, 3, 1, 2)), jnp.float32) for _ in range(2)]

    def network(size):
        x = jnp.pad(photo, ((0, 0), (0, size - 9), (0, size - 9), (0, 0)))
        for kernel in kernels:
            x = depthwise_conv(x, kernel, 2, 1)
        return np.asarray(x[:, :2, :2])

    grid = Grid(4, 24 % 4)  # trained on crops of 24 pixels
    assert grid.at_least(9) == 12
    np.testing.assert_allclose(network(12), network(24), atol=1e-6)
    assert np.abs(network(9) - network(24)).max() > 0.1


def test_views_keep_to_the_grid():
    image, inside = jnp.zeros((1, 33, 49, 3)), jnp.ones((1, 33, 49), bool)
    seen = [
        view.shape[1:3] for view, _, _ in views(image, inside, (0.5, 1.0, 1.5), False, Grid(16, 1))
    ]
    assert seen == [(17, 17), (33, 49), (49, 81)]
