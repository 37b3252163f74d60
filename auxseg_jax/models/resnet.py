"""ResNet-50 and ResNet-101 (He et al., arXiv 1512.03385) in torchvision's v1.5 layout.

The stride is on the 3x3 convolution.

Parameter paths: conv1, bn1,
layer{1..4}_{i}/{conv1,bn1,conv2,bn2,conv3,bn3,downsample,downsample_bn}.
"""

import re
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.models.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OUTPUT_STRIDE,
    REMAT,
    Backbone,
    BackboneOutput,
)
from auxseg_jax.models.layers import (
    Conv3x3,
    FrozenBatchNorm,
    PointwiseConv,
    strides_or_dilations,
    zero_outside,
)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions to four times `width` channels, added to their input.

    Where shapes change, the shortcut is a 1x1 convolution.
    """

    width: int
    stride: int
    dilation: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], inside: Bool[Array, "B H W"] | None
    ) -> Float[Array, "B _ _ _"]:
        y = nn.relu(FrozenBatchNorm(name="bn1")(PointwiseConv(self.width, name="conv1")(x)))
        y = Conv3x3(self.width, self.stride, self.dilation, name="conv2")(y, inside)
        y = nn.relu(FrozenBatchNorm(name="bn2")(y))
        y = FrozenBatchNorm(name="bn3")(PointwiseConv(4 * self.width, name="conv3")(y))
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = PointwiseConv(4 * self.width, self.stride, name="downsample")(x)
            x = FrozenBatchNorm(name="downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Image [B, H, W, 3], ImageNet normalisation -> features [B, ceil(H/s), ceil(W/s), 2048].

    Attributes:
      blocks: number of bottlenecks of each of the four layers.
      output_stride: s, 8, 16 or 32. A layer beyond it dilates instead, as in torchvision's
        replace_stride_with_dilation.
      remat: the backward pass computes bottlenecks again instead of keeping them: less memory, more
        time.
    """

    blocks: Sequence[int]
    output_stride: int = 16
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        inside: Bool[Array, "B H W"] | None = None,
        train: bool = False,
    ) -> BackboneOutput:
        del train  # There is no dropout.
        plan = strides_or_dilations((1, 2, 2, 2), self.output_stride, 4)
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        options = {"use_bias": False, "kernel_init": nn.initializers.he_normal()}
        stem = nn.Conv(64, (7, 7), (2, 2), padding=3, **options, name="conv1")
        x = stem(zero_outside(image, inside))
        x = zero_outside(nn.relu(FrozenBatchNorm(name="bn1")(x)), inside)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        layers = enumerate(zip(self.blocks, plan, strict=True), 1)
        for layer, (count, (stride, first_dilation, dilation)) in layers:
            width = 64 * 2 ** (layer - 1)
            x = block(width, stride, first_dilation, name=f"layer{layer}_0")(x, inside)
            for index in range(1, count):
                x = block(width, 1, dilation, name=f"layer{layer}_{index}")(x, inside)
        return BackboneOutput(x)


class ResNet50(ResNet):
    """`ResNet` of 3, 4, 6, 3 bottlenecks."""

    blocks: Sequence[int] = (3, 4, 6, 3)


class ResNet101(ResNet):
    """`ResNet` of 3, 4, 23, 3 bottlenecks."""

    blocks: Sequence[int] = (3, 4, 23, 3)


def _torch_module(path: str) -> str:
    """Turns a module's path here into its name in torchvision's ResNets."""
    path = re.sub(r"^layer(\d)_(\d+)/", r"layer\1.\2.", path)
    if "downsample_bn" in path:
        return path.replace("downsample_bn", "downsample.1")
    return path.replace("downsample", "downsample.0")


def _backbone(module: type[ResNet], signature: str) -> Backbone:
    return Backbone(
        module=module,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        fields={"output_stride": OUTPUT_STRIDE, "remat": REMAT},
        frozen=(r"backbone/.*bn.*", r"backbone/conv1/.*"),
        layers=(r"backbone/(conv1|bn1)/.*", *(rf"backbone/layer{k}_.*" for k in range(1, 5))),
        torch_module=_torch_module,
        signature=signature,
    )


RESNET50 = _backbone(ResNet50, r"layer3[._]5[./]")
RESNET101 = _backbone(ResNet101, r"layer3[._]22[./]")
