"""EfficientNet-Lite0 backbone (Tan & Le, arXiv 1905.11946; the Lite variants drop squeeze-excite and use ReLU6).

Parameter paths: stem, stem_bn, blocks_<0..15>/{expand,expand_bn,depthwise,depthwise_bn,project,project_bn}, head, head_bn.
"""

import flax.linen as nn
import jax

from auxseg_jax.models.layers import DepthwiseConv, FrozenBatchNorm, PointwiseConv, strides_or_dilations, zero_outside

# repeats, kernel, stride of the first block, expansion, output channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
HEAD_CHANNELS = 1280
MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
_EPSILON = 1e-3


class Block(nn.Module):
    """Inverted residual: 1x1 expand, depthwise, 1x1 linear projection; added to its input where shapes allow."""

    size: int
    stride: int
    dilation: int
    expansion: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        y = x
        if self.expansion != 1:
            y = PointwiseConv(x.shape[-1] * self.expansion, name="expand")(y)
            y = nn.relu6(FrozenBatchNorm(_EPSILON, name="expand_bn")(y))
        y = zero_outside(y, inside)
        y = DepthwiseConv(self.size, self.stride, self.dilation, name="depthwise")(y)
        y = nn.relu6(FrozenBatchNorm(_EPSILON, name="depthwise_bn")(y))
        y = FrozenBatchNorm(_EPSILON, name="project_bn")(PointwiseConv(self.features, name="project")(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Image [B, H, W, 3], (x - 127) / 128 -> features [B, ceil(H/s), ceil(W/s), K] at output stride s.

    Attributes:
      output_stride: 8, 16 or 32. Strides beyond it become dilation of the depthwise convolutions that follow
        (DeepLab's rule: the convolution that loses its stride keeps the previous dilation).
      head: K = 1280, with the 1x1 convolution + ReLU6 that ImageNet classification has there; else K = 320, the output
        of the last block, which makes the task branches 4 times cheaper.
    """

    output_stride: int = 16
    head: bool = True

    @nn.compact
    def __call__(self, image: jax.Array, inside: jax.Array | None = None, train: bool = False) -> jax.Array:
        del train  # nothing here depends on it
        plan = strides_or_dilations([stage[2] for stage in _STAGES], self.output_stride, 2)
        x = nn.Conv(32, (3, 3), (2, 2), "SAME", use_bias=False, kernel_init=nn.initializers.he_normal(), name="stem")(zero_outside(image, inside))
        x = nn.relu6(FrozenBatchNorm(_EPSILON, name="stem_bn")(x))
        index = 0
        for (repeats, size, _, expansion, features), (stride, first_dilation, dilation) in zip(_STAGES, plan, strict=True):
            for repeat in range(repeats):
                step, rate = (stride, first_dilation) if repeat == 0 else (1, dilation)
                x = Block(size, step, rate, expansion, features, name=f"blocks_{index}")(x, inside)
                index += 1
        if not self.head:
            return x
        x = PointwiseConv(HEAD_CHANNELS, name="head")(x)
        return nn.relu6(FrozenBatchNorm(_EPSILON, name="head_bn")(x))
