"""ResNet-50 and ResNet-101 backbones (He et al., arXiv 1512.03385) in torchvision's v1.5 layout: the stride is on the 3x3 convolution.

Parameter paths: conv1, bn1, layer{1..4}_{i}/{conv1,bn1,conv2,bn2,conv3,bn3,downsample,downsample_bn}.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from auxseg_jax.models.layers import Conv3x3, FrozenBatchNorm, PointwiseConv, strides_or_dilations, zero_outside


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times `width` channels, added to the input or to its 1x1 convolution where shapes change."""

    width: int
    stride: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        y = nn.relu(FrozenBatchNorm(name="bn1")(PointwiseConv(self.width, name="conv1")(x)))
        y = nn.relu(FrozenBatchNorm(name="bn2")(Conv3x3(self.width, self.stride, self.dilation, name="conv2")(y, inside)))
        y = FrozenBatchNorm(name="bn3")(PointwiseConv(4 * self.width, name="conv3")(y))
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = PointwiseConv(4 * self.width, name="downsample")(x[:, :: self.stride, :: self.stride])
            x = FrozenBatchNorm(name="downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Image [B, H, W, 3], ImageNet normalisation -> features [B, ceil(H/s), ceil(W/s), 2048] at output stride s.

    Attributes:
      blocks: bottlenecks of each of the four layers.
      output_stride: 8, 16 or 32; a layer beyond it dilates instead, as torchvision's replace_stride_with_dilation has it.
      remat: bottlenecks are computed again in the backward pass instead of kept: less memory, more time.
    """

    blocks: Sequence[int]
    output_stride: int = 16
    remat: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, inside: jax.Array | None = None, train: bool = False) -> jax.Array:
        del train  # nothing here depends on it
        plan = strides_or_dilations((1, 2, 2, 2), self.output_stride, 4)
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        init = nn.initializers.he_normal()
        x = nn.Conv(64, (7, 7), (2, 2), padding=3, use_bias=False, kernel_init=init, name="conv1")(zero_outside(image, inside))
        x = zero_outside(nn.relu(FrozenBatchNorm(name="bn1")(x)), inside)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for layer, (count, (stride, first_dilation, dilation)) in enumerate(zip(self.blocks, plan, strict=True), 1):
            width = 64 * 2 ** (layer - 1)
            x = block(width, stride, first_dilation, name=f"layer{layer}_0")(x, inside)
            for index in range(1, count):
                x = block(width, 1, dilation, name=f"layer{layer}_{index}")(x, inside)
        return x


class ResNet50(ResNet):
    """`ResNet` of 3, 4, 6, 3 bottlenecks."""

    blocks: Sequence[int] = (3, 4, 6, 3)


class ResNet101(ResNet):
    """`ResNet` of 3, 4, 23, 3 bottlenecks."""

    blocks: Sequence[int] = (3, 4, 23, 3)
