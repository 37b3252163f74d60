"""A small backbone that trains from scratch in minutes: for the demo and the tests."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.config.field import Field, at_least, one_of
from auxseg_jax.models.backbone import Backbone, BackboneOutput
from auxseg_jax.models.layers import cells_inside, zero_outside


class Tiny(nn.Module):
    """Image [B, H, W, 3], (x - 127.5) / 64 -> features [B, ceil(H/s), ceil(W/s), width].

    Six 3x3 convolutions with strides 2, 1, 2, 1, s/4, 1. Group normalisation has no stored
    statistics to freeze.

    Attributes:
      output_stride: s, 4 or 8.
      width: channels.
    """

    output_stride: int = 8
    width: int = 64

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        inside: Bool[Array, "B H W"] | None = None,
        train: bool = False,
    ) -> BackboneOutput:
        del train  # There is no dropout.
        x = image
        for i, stride in enumerate((2, 1, 2, 1, self.output_stride // 4, 1)):
            width = self.width // 2 if i < 2 else self.width
            options = {"padding": 1, "use_bias": False}
            convolution = nn.Conv(width, (3, 3), (stride, stride), **options, name=f"conv_{i}")
            x = convolution(zero_outside(x, inside))
            counted = None
            if inside is not None:
                cells = cells_inside(inside, x.shape[1:3])
                counted = jnp.broadcast_to(cells[..., None], x.shape)
            x = nn.relu(nn.GroupNorm(num_groups=8, name=f"norm_{i}")(x, mask=counted))
        return BackboneOutput(x)


BACKBONE = Backbone(
    module=Tiny,
    mean=(127.5, 127.5, 127.5),
    std=(64.0, 64.0, 64.0),
    fields={
        "output_stride": Field(8, "Pixels a cell of the features.", one_of(4, 8)),
        "width": Field(64, "Channels of the features, a multiple of 16.", at_least(16)),
    },
    layers=tuple(rf"backbone/(conv|norm)_{k}/.*" for k in range(6)),
)
