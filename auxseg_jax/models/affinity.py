"""Dual-affinity learning: pairwise and unary affinities, and what they refine.

Letters: B batch, h w feature grid, N = h*w positions (row-major), D task channels, C channels of a
prediction. Sources: pairwise and cross-task affinity arXiv 2107.11787; dual affinity arXiv
2403.01156 (abstract), filled in after DNL (arXiv 2006.06668) where it is silent: the unary
attention, its fusion, and the gate gamma.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.models.backbone import Attention
from auxseg_jax.models.layers import uniform_init
from auxseg_jax.models.pairwise import Pairwise, mask_keys, replicate, rows_per_block


class TaskAffinity(nn.Module):
    """Affinities of one task's features, and the features enhanced by them.

    A = softmax_j(theta(E)_i . phi(E)_j), u = softmax_j(m(E)_j), E' = E + W[A g(E)] + W[1 u^T g(E)]
    with 1x1 convolutions theta, phi, g, W: D -> D and m: D -> 1. With several heads, each has its
    share of the channels of theta, phi and g, and an A of its own.

    With `cosine` theta serves as phi: A = softmax_j(cosine * cos(theta(E)_i, theta(E)_j)). To a dot
    product the length of phi(E)_j counts, so that a few positions can win most rows. A cosine needs
    `whiten`: features after a relu point one way, and their rows would be nearly uniform.

    Attributes:
      pairwise: whether there is A.
      unary: whether there is u.
      whiten: subtract the spatial mean from theta and phi (DNL).
      scale: divide theta . phi by the square root of a head's channels; of the dot product alone.
      cosine: factor of the cosine, so that logits lie in -cosine..cosine; 0: the dot product.
      heads: number of heads.
      block_mib: memory in MiB, see `rows_per_block`. It does not change what is computed. The batch
        is what is traced; where devices share it, see `AuxSegNet.shared_by`.
      sources: affinities that will be fused; for the memory.
    """

    pairwise: bool = True
    unary: bool = True
    whiten: bool = False
    scale: bool = False
    cosine: float = 0.0
    heads: int = 1
    block_mib: float = 2048.0
    sources: int = 2

    @nn.compact
    def __call__(
        self, features: Float[Array, "B h w D"], inside: Bool[Array, "B h w"] | None = None
    ) -> tuple[Float[Array, "B h w D"], list[Pairwise], Float[Array, "B N"] | None]:
        """Returns E', A of each head (rows sum to 1), and u (sums to 1) or None.

        Positions that are False in `inside` (padding) are no keys of the softmaxes.
        """
        if not (self.pairwise or self.unary):
            return features, [], None
        batch, height, width, channels = features.shape
        positions = height * width
        flat = features.reshape(batch, positions, channels)
        keys = None if inside is None else inside.reshape(batch, 1, positions)
        init = uniform_init(channels)
        affinities, attention = [], None
        if self.pairwise:
            block = rows_per_block(batch, positions, self.sources, self.block_mib)
            affinities = [
                Pairwise.from_attention(head, keys, block) for head in self._heads(flat, keys)
            ]
        if self.unary:
            logits = nn.Dense(1, **init, name="m")(flat)[:, None, :, 0]
            weights = nn.softmax(mask_keys(logits.astype(jnp.float32), keys))
            attention = weights[:, 0].astype(logits.dtype)
        value = replicate(nn.Dense(channels, **init, name="g")(flat))
        gathered = 0.0
        if affinities:
            gathered += _gather_values(affinities, value)
        # W is linear but for its bias, so W[a] + W[b] = W_kernel(a + b) + 2 bias; the second bias
        # is absorbed by the first.
        if attention is not None:
            gathered += jnp.einsum("bj,bjd->bd", attention, value)[:, None]
        enhanced = flat + nn.Dense(channels, **init, name="W")(gathered)
        return enhanced.reshape(features.shape), affinities, attention

    def _heads(
        self, flat: Float[Array, "B N D"], inside: Bool[Array, "B 1 N"] | None
    ) -> list[Attention]:
        """Returns queries and keys of each head."""
        channels = flat.shape[-1]
        embed = functools.partial(nn.Dense, channels, **uniform_init(channels))
        if self.cosine:
            # Whitening would take the bias away again.
            embedded = [embed(name="theta", use_bias=not self.whiten)(flat)]
        else:
            embedded = [embed(name=name)(flat) for name in ("theta", "phi")]
        if self.whiten:
            embedded = [x - _mean(x, inside) for x in embedded]
        parts = [jnp.split(x, self.heads, axis=-1) for x in embedded]
        if self.cosine:
            return [Attention(self.cosine * unit, unit) for unit in map(_unit, parts[0])]
        factor = (channels // self.heads) ** -0.5 if self.scale else 1
        return [Attention(factor * query, key) for query, key in zip(*parts, strict=True)]


def _gather_values(
    affinities: Sequence[Pairwise], value: Float[Array, "B N D"]
) -> Float[Array, "B N D"]:
    """Returns A g(E): each head gathers its share of the channels."""
    shares = jnp.split(value, len(affinities), axis=-1)
    gathered = [
        affinity.map_rows(lambda rows, share=share: rows @ share)
        for affinity, share in zip(affinities, shares, strict=True)
    ]
    return gathered[0] if len(gathered) == 1 else jnp.concatenate(gathered, -1)


def refine(
    predictions: Sequence[Float[Array, "B h w _"]],
    affinity: Pairwise | None,
    attention: Float[Array, "B N"] | None,
    gammas: Sequence[Array | float],
) -> list[Array]:
    """Returns P_ref = A P + gamma * 1 (u^T P) of each prediction, on logits.

    Args:
      predictions: P, logits of each task; they go through A together.
      affinity: A, or None: then the first term is P itself.
      attention: u or None.
      gammas: scalar weight of the unary term of each task.
    """
    batch, height, width, _ = predictions[0].shape
    stacked = jnp.concatenate(predictions, -1).reshape(batch, height * width, -1)
    flat = replicate(stacked)
    refined = flat if affinity is None else affinity.map_rows(lambda rows: rows @ flat)
    if attention is not None:
        gamma = jnp.concatenate(
            [jnp.broadcast_to(g, p.shape[-1:]) for g, p in zip(gammas, predictions, strict=True)]
        )
        refined = refined + gamma * jnp.einsum("bj,bjc->bc", attention, flat)[:, None]
    refined = refined.reshape(batch, height, width, -1)
    ends = [sum(p.shape[-1] for p in predictions[: k + 1]) for k in range(len(predictions))]
    return jnp.split(refined, ends[:-1], axis=-1)


def _unit(x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """Scales vectors to length 1; one near 0 stays short, so that its row is nearly uniform.

    A photo of one colour has whitened vectors that are rounding errors, which must not train.
    """
    return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def _mean(x: Float[Array, "B N D"], inside: Bool[Array, "B 1 N"] | None) -> Float[Array, "B 1 D"]:
    """Returns the mean over the positions inside the photo."""
    if inside is None:
        return x.mean(1, keepdims=True)
    weight = inside[:, 0, :, None].astype(x.dtype)
    return (x * weight).sum(1, keepdims=True) / jnp.maximum(weight.sum(1, keepdims=True), 1)
