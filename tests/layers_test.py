"""Depthwise convolution, frozen normalisation and resizing against XLA's and plain definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxseg_jax.models import depthwise, layers


@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), (5, 2, 1), (3, 1, 4)]
)
@pytest.mark.parametrize("shape", [(7, 5), (8, 6)])
def test_depthwise_convolution_and_its_gradients(rng, size, stride, dilation, shape):
    x = jnp.asarray(rng.normal(size=(2, *shape, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
    reference = functools.partial(depthwise._xla_forward, stride=stride, dilation=dilation)
    expected, reference_vjp = jax.vjp(reference, x, kernel)
    found, vjp = jax.vjp(lambda x, k: depthwise.depthwise_conv(x, k, stride, dilation), x, kernel)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(vjp(cotangent), reference_vjp(cotangent), strict=True):
        np.testing.assert_allclose(
            mine, theirs, rtol=1e-5, atol=2e-5
        )  # sums of up to 70 products in another order


def test_pointwise_convolution_is_a_1x1_convolution(rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    module = layers.PointwiseConv(6)
    params = module.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        module.apply(params, x),
        np.einsum("bhwi,io->bhwo", x, params["params"]["kernel"]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_frozen_batch_norm(rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    params = {
        name: rng.uniform(0.5, 2, 5).astype(np.float32) for name in ("scale", "bias", "mean", "var")
    }
    expected = (x - params["mean"]) / np.sqrt(params["var"] + 1e-3) * params["scale"] + params[
        "bias"
    ]
    np.testing.assert_allclose(
        layers.FrozenBatchNorm(1e-3).apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("pixels", "cells"), [(16, 4), (17, 5), (10, 4)])
@pytest.mark.parametrize("begin", [0, 1, 3, 5])
def test_a_cell_with_any_photo_is_inside(pixels, cells, begin):
    inside = np.zeros((1, pixels, 3), bool)
    inside[:, begin : begin + 7] = True
    found = layers.cells_inside(jnp.asarray(inside), (cells, 3))[0, :, 0]
    starts = [k * pixels // cells for k in range(cells)]
    ends = [-(-(k + 1) * pixels // cells) for k in range(cells)]
    wanted = [inside[0, a:b, 0].any() for a, b in zip(starts, ends, strict=True)]
    assert found.tolist() == wanted
    if not begin:  # As at test.
        nearest = layers.resize_nearest(jnp.asarray(inside), (cells, 3))[0, :, 0]
        assert found.tolist() == nearest.tolist()


def test_resize_nearest_takes_the_first_pixel_of_a_cell():
    mask = np.arange(10) < 5
    np.testing.assert_array_equal(
        layers.resize_nearest(mask[None, :, None] & np.ones((1, 10, 3), bool), (4, 3))[0, :, 0],
        [True, True, False, False],
    )
