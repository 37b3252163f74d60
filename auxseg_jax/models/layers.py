"""Layers that models share: convolutions, frozen batch normalisation, initialisation, resizing, views of a photo."""

import functools
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from auxseg_jax.grid import Grid


def uniform_init(fan_in: int) -> dict[str, Callable]:
    """Kernel and bias uniform in +-1/sqrt(fan_in), as PyTorch leaves a layer that nobody initialises (and so the authors)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) * fan_in**-0.5

    return {"kernel_init": init, "bias_init": init}


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize of [B, h, w, C] to [B, *size, C], half-pixel centres (align_corners=False), no antialiasing."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def resize_nearest(mask: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B, H, W] at the grid of `size`: row i shows row floor(i * H / h). Keeps the type."""
    rows, columns = ((jnp.arange(n) * m) // n for n, m in zip(size, mask.shape[1:3], strict=True))
    return mask[:, rows][:, :, columns]


def views(image: jax.Array, inside: jax.Array, scales: Sequence[float], flip: bool, grid: Grid) -> Iterator[tuple[jax.Array, jax.Array, Callable]]:
    """The views of a batch of whole photos: each scale, to the closest size of the grid, and, if `flip`, its mirror image.

    Yields (image, inside, unmirror); `unmirror` turns a map [B, h, w, ...] of that view the right way round again.
    """
    height, width = image.shape[1:3]
    for scale in scales:
        scaled, scaled_inside = image, inside
        target = grid.nearest(height * scale), grid.nearest(width * scale)
        if target != (height, width):
            scaled, scaled_inside = resize_bilinear(image, target), resize_nearest(inside, target)
        yield scaled, scaled_inside, lambda x: x
        if flip:
            yield scaled[:, :, ::-1], scaled_inside[:, :, ::-1], lambda x: x[:, :, ::-1]


def zero_outside(x: jax.Array, inside: jax.Array | None) -> jax.Array:
    """[B, h, w, C] with 0 where the photo [B, H, W] is not: to a convolution, padding of a bucket is then zero padding."""
    return x if inside is None else x * resize_nearest(inside, x.shape[1:3])[..., None]


def strides_or_dilations(strides: Sequence[int], output_stride: int, reached: int) -> list[tuple[int, int, int]]:
    """How the stages of a backbone keep to an output stride: beyond it they dilate instead (DeepLab's rule).

    Args:
      strides: of each stage, 1 or 2.
      output_stride: 8, 16 or 32.
      reached: stride before the first of them.

    Returns:
      (stride, dilation of the first block, dilation of the others) a stage: the block that loses its stride keeps the
      dilation of the stage before.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"backbone.output_stride must be 8, 16 or 32, got {output_stride}")
    dilation, plan = 1, []
    for stride in strides:
        first = dilation
        if reached * stride > output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        plan.append((stride, first, dilation))
    return plan


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by stored statistics: y = (x - mean) / sqrt(var + epsilon) * scale + bias.

    All four are parameters, so that they are loaded, saved and named like the rest. They get no gradient; name them in
    `optimizer.frozen` too, which also keeps weight decay off them.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.param("mean", nn.initializers.zeros, shape)
        var = self.param("var", nn.initializers.ones, shape)
        scale, bias, mean, var = (lax.stop_gradient(p) for p in (scale, bias, mean, var))
        factor = scale * lax.rsqrt(var + self.epsilon)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)


class PointwiseConv(nn.Module):
    """1x1 convolution without bias [..., I] -> [..., features], kernel [I, features].

    As a product of two matrices: the kernel gradient of `nn.Conv`, or of `nn.Dense` on more than two axes, makes XLA:CPU
    write the activations again in transposed order, which takes longer than the product.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.features))
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)


class Conv3x3(nn.Module):
    """3x3 convolution without bias; padding is the dilation on both sides, unlike XLA's SAME at even sizes and stride 2."""

    features: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        rate, init = self.dilation, nn.initializers.he_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        return lax.conv_general_dilated(
            zero_outside(x, inside),
            kernel,
            (self.stride, self.stride),
            ((rate, rate), (rate, rate)),
            rhs_dilation=(rate, rate),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class DepthwiseConv(nn.Module):
    """Depthwise k x k convolution without bias, padding "SAME", input [B, H, W, C]."""

    size: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.he_normal(), (self.size, self.size, 1, x.shape[-1]))
        return depthwise_conv(x, kernel, self.stride, self.dilation)


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int, int]:
    """TF/XLA "SAME": (padding before, padding after, output size) along one axis."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2, out


def _windows(x: jax.Array, kernel: int, stride: int, dilation: int):
    """Yields, tap by tap in row-major order, the strided view of the padded [B, H, W, C] that the tap multiplies."""
    (top, bottom, rows), (left, right, columns) = (_same_padding(n, kernel, stride, dilation) for n in x.shape[1:3])
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    for i in range(0, kernel * dilation, dilation):
        for j in range(0, kernel * dilation, dilation):
            limits = (x.shape[0], i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, x.shape[3])
            yield lax.slice(padded, (0, i, j, 0), limits, (1, stride, stride, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Depthwise convolution, padding "SAME". x [B, H, W, C], kernel [k, k, 1, C] -> [B, ceil(H/stride), ceil(W/stride), C].

    XLA:CPU's own lowering is 15-60 times slower than a sum of shifted products, and its kernel gradient slower still,
    so the CPU gets its own forward and backward pass; other platforms keep XLA's convolution.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted_forward, stride=stride, dilation=dilation),
        default=functools.partial(_xla_forward, stride=stride, dilation=dilation),
    )


def _xla_forward(x, kernel, *, stride, dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _shifted_forward(x, kernel, *, stride, dilation):
    taps = kernel.reshape(-1, kernel.shape[-1])
    return sum(window * tap for window, tap in zip(_windows(x, len(kernel), stride, dilation), taps, strict=True))


def _xla_backward(x, kernel, cotangent, *, stride, dilation):
    return jax.vjp(functools.partial(_xla_forward, stride=stride, dilation=dilation), x, kernel)[1](cotangent)


def _shifted_backward(x, kernel, cotangent, *, stride, dilation):
    return _shifted_input_gradient(x, kernel, cotangent, stride, dilation), _shifted_kernel_gradient(x, kernel, cotangent, stride, dilation)


def _shifted_input_gradient(x, kernel, cotangent, stride, dilation):
    """Correlation of the cotangent, spread out by the stride, with the flipped kernel."""
    batch, height, width, channels = x.shape
    reach = (len(kernel) - 1) * dilation
    config = [(0, 0, 0)]
    for size, out in zip((height, width), cotangent.shape[1:3], strict=True):
        before = _same_padding(size, len(kernel), stride, dilation)[0]
        config.append((reach - before, size + before - (out - 1) * stride - 1, stride - 1))
    spread = lax.optimization_barrier(lax.pad(cotangent, jnp.zeros((), cotangent.dtype), (*config, (0, 0, 0))))
    total = 0.0
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            top, left = reach - i * dilation, reach - j * dilation
            total += lax.slice(spread, (0, top, left, 0), (batch, top + height, left + width, channels)) * kernel[i, j, 0]
    return total


def _shifted_kernel_gradient(x, kernel, cotangent, stride, dilation):
    """Products summed photo by photo, and row by row as explicit additions.

    XLA:CPU's reduction over leading axes runs one scalar chain per channel; elementwise additions of rows run on vectors
    (4-11 times faster at the shapes of EfficientNet-Lite0). The barrier keeps the last sum from being fused back into
    such a chain.
    """

    def add_photo(total, photo):
        views, gradient = photo
        products = [
            functools.reduce(jnp.add, [window[row] * gradient[row] for row in range(gradient.shape[0])])
            for window in (w[0] for w in _windows(views[None], len(kernel), stride, dilation))
        ]
        return total + jnp.stack(products), None

    start = jnp.zeros((len(kernel) ** 2, *cotangent.shape[2:]), cotangent.dtype)
    by_column, _ = lax.scan(add_photo, start, (x, cotangent))
    return lax.optimization_barrier(by_column).sum(1).reshape(kernel.shape)


def _depthwise_forward(x, kernel, stride, dilation):
    return depthwise_conv(x, kernel, stride, dilation), (x, kernel)


def _depthwise_backward(stride, dilation, residuals, cotangent):
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=functools.partial(_shifted_backward, stride=stride, dilation=dilation),
        default=functools.partial(_xla_backward, stride=stride, dilation=dilation),
    )


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)
