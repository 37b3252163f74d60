"""The branch and the head of a dense task (segmentation, saliency)."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.models.layers import uniform_init, zero_outside


class TaskBranch(nn.Module):
    """E = relu(conv3x3 rate r2 (relu(conv3x3 rate r1 (F)))): backbone features to task features."""

    channels: int
    dilations: Sequence[int]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w K"], inside: Bool[Array, "B h w"] | None
    ) -> Float[Array, "B h w D"]:
        for number, rate in enumerate(self.dilations, 1):
            convolution = _conv3x3(x.shape[-1], self.channels, rate, f"conv_{number}")
            x = nn.relu(convolution(zero_outside(x, inside)))
        return x


class TaskHead(nn.Module):
    """Initial logits from the enhanced features.

    An optional dilated 3x3 convolution with relu, then a 1x1 convolution without bias.
    """

    outputs: int
    dilation: int | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], inside: Bool[Array, "B h w"] | None
    ) -> Float[Array, "B h w C"]:
        if self.dilation is not None:
            convolution = _conv3x3(x.shape[-1], x.shape[-1], self.dilation, "conv")
            x = nn.relu(convolution(zero_outside(x, inside)))
        init = nn.initializers.xavier_uniform()
        predict = nn.Conv(self.outputs, (1, 1), use_bias=False, kernel_init=init, name="predict")
        return predict(x)


def _conv3x3(inputs: int, features: int, rate: int, name: str) -> nn.Conv:
    init = {**uniform_init(9 * inputs), "kernel_init": nn.initializers.xavier_uniform()}
    return nn.Conv(features, (3, 3), kernel_dilation=rate, padding=rate, **init, name=name)
