"""Layers that models share: convolutions, frozen batch normalisation, initialisation, resizing."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Shaped

from auxseg_jax.arrays import Array
from auxseg_jax.errors import UserError


def uniform_init(fan_in: int) -> dict[str, Callable]:
    """Returns initialisers of kernel and bias, uniform in +-1/sqrt(fan_in).

    This is PyTorch's default, which the authors keep for layers that they do not initialise.
    """

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1, 1) * fan_in**-0.5

    return {"kernel_init": init, "bias_init": init}


def resize_bilinear(x: Float[Array, "B h w C"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
    """Resizes to `size` (H, W) bilinearly.

    Half-pixel centres (align_corners=False), no antialiasing.
    """
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def resize_nearest(mask: Shaped[Array, "B H W"], size: tuple[int, int]) -> Shaped[Array, "B h w"]:
    """Resizes to `size` (h, w): row i shows row floor(i * H / h). Keeps the type."""
    rows, columns = ((jnp.arange(n) * m) // n for n, m in zip(size, mask.shape[1:3], strict=True))
    return mask[:, rows][:, :, columns]


def cells_inside(inside: Bool[Array, "B H W"], size: tuple[int, int]) -> Bool[Array, "B h w"]:
    """Returns which of h x w cells hold photo, if only in part, as at its edges.

    A photo of a bucket begins with a cell. One that is smaller than its training crop may begin and
    end within one.
    """
    for axis, count in enumerate(size, 1):
        cells, pixels = jnp.arange(count), inside.shape[axis]
        first, last = cells * pixels // count, ((cells + 1) * pixels - 1) // count
        inside = jnp.take(inside, first, axis) | jnp.take(inside, last, axis)
    return inside


def zero_outside(
    x: Float[Array, "B h w C"], inside: Bool[Array, "B H W"] | None
) -> Float[Array, "B h w C"]:
    """Sets x to 0 where the photo is not.

    To a convolution, padding of a bucket or of a crop is then zero padding.
    """
    return x if inside is None else x * cells_inside(inside, x.shape[1:3])[..., None]


def strides_or_dilations(
    strides: Sequence[int], output_stride: int, reached: int
) -> list[tuple[int, int, int]]:
    """Plans how the stages of a backbone keep to an output stride (DeepLab's rule).

    Beyond it a stage dilates instead of striding. The block that loses its stride keeps the
    dilation of the stage before.

    Args:
      strides: stride of each stage, 1 or 2.
      output_stride: 8, 16 or 32.
      reached: stride before the first stage.

    Returns:
      (stride, dilation of the first block, dilation of the others) of each stage.
    """
    if output_stride not in (8, 16, 32):
        raise UserError(f"backbone.output_stride must be 8, 16 or 32, got {output_stride}")
    dilation, plan = 1, []
    for stride in strides:
        first = dilation
        if reached * stride > output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        plan.append((stride, first, dilation))
    return plan


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by stored statistics.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias.

    All four are parameters, so that they are loaded, saved and named like the rest. They get no
    gradient. Name them in `Backbone.frozen` too, which also keeps weight decay off them.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.param("mean", nn.initializers.zeros, shape)
        var = self.param("var", nn.initializers.ones, shape)
        scale, bias, mean, var = (lax.stop_gradient(p) for p in (scale, bias, mean, var))
        factor = scale * lax.rsqrt(var + self.epsilon)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)


class PointwiseConv(nn.Module):
    """1x1 convolution without bias [B, H, W, I] -> [B, H/stride, W/stride, features].

    It is a product of two matrices: the kernel gradient of `nn.Conv`, or of `nn.Dense` on more than
    two axes, makes XLA:CPU write the activations again in transposed order, which takes longer than
    the product.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        init = nn.initializers.he_normal()
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        if self.stride > 1:
            # XLA:GPU aborts where it fuses such a slice into a matrix product (jax 0.11.2, H200).
            x = lax.optimization_barrier(x)[:, :: self.stride, :: self.stride]
            x = lax.optimization_barrier(x)
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)


class Conv3x3(nn.Module):
    """3x3 convolution without bias.

    Padding is the dilation on both sides, unlike XLA's SAME at even sizes and stride 2.
    """

    features: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W I"], inside: Bool[Array, "B _ _"] | None
    ) -> Float[Array, "B h w O"]:
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
