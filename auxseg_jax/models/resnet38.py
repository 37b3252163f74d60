"""ResNet38 backbone (Wu et al., arXiv 1611.10080, their model A): wide pre-activation residual network at stride 8.

Parameter paths: conv1a; b2, b2_1, ... b7, each bn_branch2a, conv_branch2a, bn_branch2b1, conv_branch2b1 (bottlenecks also
bn_branch2b2, conv_branch2b2) and conv_branch1; bn7. They are the names of the weights that go round.
"""

import flax.linen as nn
import jax

from auxseg_jax.models.layers import Conv3x3, FrozenBatchNorm, PointwiseConv

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# name of the first block, number of blocks, inner and outer channels, stride, dilation of the first and of all other convolutions
_STAGES = (
    ("b2", 3, 128, 128, 2, 1, 1),
    ("b3", 3, 256, 256, 2, 1, 1),
    ("b4", 6, 512, 512, 2, 1, 1),
    ("b5", 3, 512, 1024, 1, 1, 2),
)
# name, inner and outer channels, dropout
_BOTTLENECKS = (("b6", 512, 1024, 2048, 0.3), ("b7", 1024, 2048, 4096, 0.5))


class Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and relu. Where shapes change, a 1x1 convolution of relu(bn(x)) is the shortcut."""

    inner: int
    features: int
    stride: int
    first_dilation: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        y = nn.relu(FrozenBatchNorm(name="bn_branch2a")(x))
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            shortcut = PointwiseConv(self.features, name="conv_branch1")(y[:, :: self.stride, :: self.stride])
        y = Conv3x3(self.inner, self.stride, self.first_dilation, name="conv_branch2a")(y, inside)
        y = nn.relu(FrozenBatchNorm(name="bn_branch2b1")(y))
        return shortcut + Conv3x3(self.features, 1, self.dilation, name="conv_branch2b1")(y, inside)


class Bottleneck(nn.Module):
    """1x1, dilated 3x3, 1x1, with channel-wise dropout before the last two; the shortcut is always a convolution."""

    reduced: int
    inner: int
    features: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None, train: bool) -> jax.Array:
        def activate(y: jax.Array, name: str) -> jax.Array:
            return nn.relu(FrozenBatchNorm(name=name)(y))

        def drop(y: jax.Array) -> jax.Array:
            return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(y)

        y = activate(x, "bn_branch2a")
        shortcut = PointwiseConv(self.features, name="conv_branch1")(y)
        y = PointwiseConv(self.reduced, name="conv_branch2a")(y)
        y = Conv3x3(self.inner, dilation=4, name="conv_branch2b1")(drop(activate(y, "bn_branch2b1")), inside)
        return shortcut + PointwiseConv(self.features, name="conv_branch2b2")(drop(activate(y, "bn_branch2b2")))


class ResNet38(nn.Module):
    """Image [B, H, W, 3], ImageNet normalisation -> features [B, ceil(H/8), ceil(W/8), 4096].

    Attributes:
      remat: residual blocks are computed again in the backward pass instead of kept: less memory, more time.
    """

    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, inside: jax.Array | None = None, train: bool = False) -> jax.Array:
        block = nn.remat(Block) if self.remat else Block
        bottleneck = nn.remat(Bottleneck, static_argnums=(3,)) if self.remat else Bottleneck
        x = Conv3x3(64, name="conv1a")(image, inside)
        for name, count, inner, features, stride, first_dilation, dilation in _STAGES:
            x = block(inner, features, stride, first_dilation, dilation, name=name)(x, inside)
            for index in range(1, count):
                x = block(inner, features, 1, dilation, dilation, name=f"{name}_{index}")(x, inside)
        for name, reduced, inner, features, dropout in _BOTTLENECKS:
            x = bottleneck(reduced, inner, features, dropout, name=name)(x, inside, train)
        return nn.relu(FrozenBatchNorm(name="bn7")(x))
