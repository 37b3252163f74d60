"""Depthwise convolution, with a forward and a backward pass of its own on the CPU."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from auxseg_jax.arrays import Array
from auxseg_jax.models import precision as precision_lib


class DepthwiseConv(nn.Module):
    """Depthwise k x k convolution without bias, padding "SAME", input [B, H, W, C]."""

    size: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", nn.initializers.he_normal(), (self.size, self.size, 1, x.shape[-1])
        )
        return depthwise_conv(x, kernel, self.stride, self.dilation, precision_lib.current())


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int, int]:
    """Returns (padding before, padding after, output size) along one axis of XLA's "SAME"."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2, out


def _windows(x: Array, kernel: int, stride: int, dilation: int):
    """Yields the strided view of the padded [B, H, W, C] that each tap multiplies, row by row."""
    (top, bottom, rows), (left, right, columns) = (
        _same_padding(n, kernel, stride, dilation) for n in x.shape[1:3]
    )
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    for i in range(0, kernel * dilation, dilation):
        for j in range(0, kernel * dilation, dilation):
            bottom, right = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
            limits = (x.shape[0], bottom, right, x.shape[3])
            yield lax.slice(padded, (0, i, j, 0), limits, (1, stride, stride, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_conv(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k 1 C"],
    stride: int,
    dilation: int,
    precision: str | None = None,
) -> Float[Array, "B h w C"]:
    """Convolves each channel by itself, padding "SAME"; h = ceil(H / stride).

    XLA:CPU's own lowering is 15 to 60 times slower than a sum of shifted products, and its kernel
    gradient slower still. So the CPU gets a forward and a backward pass of its own; other platforms
    keep XLA's convolution.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted_forward, stride=stride, dilation=dilation),
        default=functools.partial(
            _xla_forward, stride=stride, dilation=dilation, precision=precision
        ),
    )


def _xla_forward(x, kernel, *, stride, dilation, precision=None):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision,
    )


def _shifted_forward(x, kernel, *, stride, dilation):
    taps = kernel.reshape(-1, kernel.shape[-1])
    windows = _windows(x, len(kernel), stride, dilation)
    return sum(window * tap for window, tap in zip(windows, taps, strict=True))


def _xla_backward(x, kernel, cotangent, **options):
    return jax.vjp(functools.partial(_xla_forward, **options), x, kernel)[1](cotangent)


def _shifted_backward(x, kernel, cotangent, *, stride, dilation):
    arguments = x, kernel, cotangent, stride, dilation
    return _shifted_input_gradient(*arguments), _shifted_kernel_gradient(*arguments)


def _shifted_input_gradient(x, kernel, cotangent, stride, dilation):
    """Correlates the cotangent, spread out by the stride, with the flipped kernel."""
    batch, height, width, channels = x.shape
    reach = (len(kernel) - 1) * dilation
    config = [(0, 0, 0)]
    for size, out in zip((height, width), cotangent.shape[1:3], strict=True):
        before = _same_padding(size, len(kernel), stride, dilation)[0]
        config.append((reach - before, size + before - (out - 1) * stride - 1, stride - 1))
    zero = jnp.zeros((), cotangent.dtype)
    spread = lax.optimization_barrier(lax.pad(cotangent, zero, (*config, (0, 0, 0))))
    total = 0.0
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            top, left = reach - i * dilation, reach - j * dilation
            limits = (batch, top + height, left + width, channels)
            total += lax.slice(spread, (0, top, left, 0), limits) * kernel[i, j, 0]
    return total


def _shifted_kernel_gradient(x, kernel, cotangent, stride, dilation):
    """Sums products photo by photo, and row by row as explicit additions.

    XLA:CPU's reduction over leading axes runs one scalar chain per channel. Elementwise additions
    of rows run on vectors, 4 to 11 times faster at the shapes of EfficientNet-Lite0. The barrier
    keeps the last sum from being fused back into such a chain.
    """

    def add_photo(total, photo):
        image, gradient = photo
        products = []
        for (window,) in _windows(image[None], len(kernel), stride, dilation):
            rows = [window[row] * gradient[row] for row in range(gradient.shape[0])]
            products.append(functools.reduce(jnp.add, rows))
        return total + jnp.stack(products), None

    start = jnp.zeros((len(kernel) ** 2, *cotangent.shape[2:]), cotangent.dtype)
    by_column, _ = lax.scan(add_photo, start, (x, cotangent))
    return lax.optimization_barrier(by_column).sum(1).reshape(kernel.shape)


def _depthwise_forward(x, kernel, stride, dilation, precision):
    return depthwise_conv(x, kernel, stride, dilation, precision), (x, kernel)


def _depthwise_backward(stride, dilation, precision, residuals, cotangent):
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=functools.partial(_shifted_backward, stride=stride, dilation=dilation),
        default=functools.partial(
            _xla_backward, stride=stride, dilation=dilation, precision=precision
        ),
    )


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)
