"""A small backbone that trains from scratch in minutes: for the demo and the tests."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from auxseg_jax.models.layers import resize_nearest, zero_outside

MEAN, STD = (127.5, 127.5, 127.5), (64.0, 64.0, 64.0)


class Tiny(nn.Module):
    """Image [B, H, W, 3], (x - 127.5) / 64 -> features [B, ceil(H/s), ceil(W/s), width] at output stride s (4 or 8).

    Six 3x3 convolutions with group normalisation (there are no stored statistics to freeze), strides 2, 1, 2, 1, s/4, 1.
    """

    output_stride: int = 8
    width: int = 64

    @nn.compact
    def __call__(self, image: jax.Array, inside: jax.Array | None = None, train: bool = False) -> jax.Array:
        del train  # nothing here depends on it
        if self.output_stride not in (4, 8):
            raise ValueError(f"backbone.output_stride must be 4 or 8 for the tiny backbone, got {self.output_stride}")
        x = image
        strides = (2, 1, 2, 1, self.output_stride // 4, 1)
        for i, stride in enumerate(strides):
            features = self.width // 2 if i < 2 else self.width
            x = nn.Conv(features, (3, 3), (stride, stride), padding=1, use_bias=False, name=f"conv_{i}")(zero_outside(x, inside))
            counted = None if inside is None else jnp.broadcast_to(resize_nearest(inside, x.shape[1:3])[..., None], x.shape)
            x = nn.relu(nn.GroupNorm(num_groups=8, name=f"norm_{i}")(x, mask=counted))
        return x
