"""Dual-affinity learning: pairwise and unary affinities of each task, their fusion across tasks, and what they refine.

Letters: B batch, h w feature grid, N = h*w positions (row-major), D task channels, C channels of a prediction.
Sources: pairwise and cross-task affinity arXiv 2107.11787; dual affinity arXiv 2403.01156 (abstract), filled in after
DNL (arXiv 2006.06668) where it is silent: the unary attention, its fusion, and the gate gamma.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from auxseg_jax.models.layers import uniform_init

_NEVER = -1e9  # logit of a position outside the photo; exp of it is exactly 0 in float32


class TaskAffinity(nn.Module):
    """Affinities of one task's features, and the features enhanced by them.

    A = softmax_j(theta(E)_i . phi(E)_j), u = softmax_j(m(E)_j), E' = E + W[A g(E)] + W[1 u^T g(E)]
    with 1x1 convolutions theta, phi, g, W: D -> D and m: D -> 1.

    Attributes:
      pairwise, unary: which of the two affinities there are.
      whiten: subtract the spatial mean from theta and phi (DNL).
      scale: divide theta . phi by sqrt(D).

    Call:
      features: E [B, h, w, D].
      inside: bool [B, h, w] or None; positions that are False (padding of a bucket) are no keys of the softmaxes.

    Returns:
      (E' [B, h, w, D], A [B, N, N] or None, u [B, N] or None). Rows of A and u sum to 1.
    """

    pairwise: bool = True
    unary: bool = True
    whiten: bool = False
    scale: bool = False

    @nn.compact
    def __call__(self, features: jax.Array, inside: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        batch, height, width, channels = features.shape
        flat = features.reshape(batch, height * width, channels)
        keys = None if inside is None else inside.reshape(batch, 1, height * width)
        affinity = attention = None
        if not (self.pairwise or self.unary):
            return features, None, None
        init = uniform_init(channels)
        if self.pairwise:
            query, key = nn.Dense(channels, **init, name="theta")(flat), nn.Dense(channels, **init, name="phi")(flat)
            if self.whiten:
                query, key = query - _mean(query, keys), key - _mean(key, keys)
            logits = jnp.einsum("bid,bjd->bij", query, key) * (channels**-0.5 if self.scale else 1.0)
            affinity = nn.softmax(_only(logits, keys))
        if self.unary:
            logits = nn.Dense(1, **init, name="m")(flat)[:, None, :, 0]
            attention = nn.softmax(_only(logits, keys))[:, 0]
        value = nn.Dense(channels, **init, name="g")(flat)
        gathered = 0.0
        if affinity is not None:
            gathered += jnp.einsum("bij,bjd->bid", affinity, value)
        # W is linear but for its bias, so W[a] + W[b] = W_kernel(a + b) + 2 bias; the bias of a constant is absorbed.
        if attention is not None:
            gathered += jnp.einsum("bj,bjd->bd", attention, value)[:, None]
        enhanced = flat + nn.Dense(channels, **init, name="W")(gathered)
        return enhanced.reshape(features.shape), affinity, attention


class CrossTaskFusion(nn.Module):
    """Fuses the tasks' maps into one: sum_t G_t * map_t with G = softmax_t(conv1x1(relu(conv3x3(maps)))).

    For the pairwise affinities the maps are [B, N, N] (the 3x3 convolution runs on the plane of flattened positions),
    for the unary ones [B, h, w]. Rows of the fused map no longer sum to 1.
    """

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        stacked = jnp.stack(maps, axis=-1)
        tasks = stacked.shape[-1]
        hidden = nn.Conv(tasks, (3, 3), padding=1, use_bias=False, kernel_init=uniform_init(9 * tasks)["kernel_init"], name="conv_3x3")(stacked)
        gate = nn.softmax(nn.Conv(tasks, (1, 1), **uniform_init(tasks), name="conv_1x1")(nn.relu(hidden)))
        return (gate * stacked).sum(-1)


def refine(prediction: jax.Array, affinity: jax.Array | None, attention: jax.Array | None, gamma: jax.Array | float) -> jax.Array:
    """P_ref = A P + gamma * 1 (u^T P), on logits; without A the first term is P itself.

    Args:
      prediction: P [B, h, w, C] logits.
      affinity: A [B, N, N] or None.
      attention: u [B, N] or None.
      gamma: scalar weight of the unary term.
    """
    flat = prediction.reshape(prediction.shape[0], -1, prediction.shape[-1])
    refined = flat if affinity is None else jnp.einsum("bij,bjc->bic", affinity, flat)
    if attention is not None:
        refined = refined + gamma * jnp.einsum("bj,bjc->bc", attention, flat)[:, None]
    return refined.reshape(prediction.shape)


def normalize_rows(affinity: jax.Array) -> jax.Array:
    """Rows of [B, N, N] scaled to sum to 1."""
    return affinity / (affinity.sum(-1, keepdims=True) + 1e-8)


def _only(logits: jax.Array, keys: jax.Array | None) -> jax.Array:
    return logits if keys is None else jnp.where(keys, logits, _NEVER)


def _mean(x: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Mean over the positions [B, N, D] that are keys [B, 1, N]."""
    if keys is None:
        return x.mean(1, keepdims=True)
    weight = keys[:, 0, :, None].astype(x.dtype)
    return (x * weight).sum(1, keepdims=True) / jnp.maximum(weight.sum(1, keepdims=True), 1)
