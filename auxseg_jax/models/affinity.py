"""Dual-affinity learning: pairwise and unary affinities, and what they refine.

Letters: B batch, h w feature grid, N = h*w positions (row-major), D task channels, C channels of a
prediction. Sources: pairwise and cross-task affinity arXiv 2107.11787; dual affinity arXiv
2403.01156 (abstract), filled in after DNL (arXiv 2006.06668) where it is silent: the unary
attention, its fusion, and the gate gamma.

N grows with the photo and N x N with its square (527 MiB a map at twice the usual size). So a
`Pairwise` affinity is kept as what it is made of. Its rows are made in blocks where they are used,
and made again for the gradient. Where all of them fit in one block, they are made once.
"""

import typing
from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.models import precision
from auxseg_jax.models.backbone import Attention
from auxseg_jax.models.fusion import MAPS_ALIVE_EACH, FusionWeights, fuse
from auxseg_jax.models.layers import uniform_init

_OUTSIDE_LOGIT = -1e9  # Logit of a position outside the photo; its exp is exactly 0 in float32.


@typing.no_type_check  # JAX puts placeholders into the fields of trees.
class Pairwise(flax.struct.PyTreeNode):
    """A pairwise affinity A [B, N, N]: softmax_j(query_i . key_j), or several of them combined.

    Attributes:
      queries: [B, N, D] of each source.
      keys: likewise.
      inside: positions that are False are no keys.
      fusion: weights of the gate that combines several sources; None: their mean.
      whole: A, made once, if all its rows are one block; else None.
      block: rows made at a time.
      normalized: whether rows are scaled to sum to 1; those of a single source do so anyway.
    """

    queries: tuple[Array, ...]
    keys: tuple[Array, ...]
    inside: Array | None
    fusion: FusionWeights | None
    whole: Array | None
    block: int = flax.struct.field(pytree_node=False)
    normalized: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def of(cls, matrix: Float[Array, "B N N"]) -> "Pairwise":
        """Wraps an affinity that is given as a whole."""
        return cls((), (), None, None, matrix, matrix.shape[1])

    @classmethod
    def from_attention(
        cls, attention: Attention, inside: Bool[Array, "B 1 N"] | None, block: int
    ) -> "Pairwise":
        """Makes the affinity of one source, `block` rows at a time."""
        query, key = _shard_by_query(attention.query), _replicate(attention.key)
        whole = _attend(query, key, inside) if block == query.shape[1] else None
        return cls((query,), (key,), inside, None, whole, block)

    def map_rows(
        self, function: Callable[[Float[Array, "B R N"]], Float[Array, "B R C"]]
    ) -> Float[Array, "B N C"]:
        """Applies a function that sees each row by itself to all rows."""
        if self.whole is not None:
            return _replicate(_shard_by_query(function(self.whole)))
        positions = self.queries[0].shape[1]
        # A loop does not merge what the gradient makes again, so there is no need to prevent it.
        block_result = jax.checkpoint(
            lambda first: _shard_by_query(function(self._rows(first))), prevent_cse=False
        )
        blocks = jax.lax.map(block_result, jnp.arange(0, positions, self.block))
        rows = jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1, blocks.shape[-1])
        return _replicate(rows[:, :positions])

    def row(self, position: int) -> Float[Array, "B N"]:
        """Returns one row of A: what a position looks at."""
        if self.whole is not None:
            return self.whole[:, position]
        return self.replace(block=1)._rows(jnp.asarray(position))[:, 0]

    def normalize_rows(self) -> "Pairwise":
        """Returns the affinity with rows that sum to 1."""
        whole = None if self.whole is None else _scale_rows(self.whole)
        return self.replace(normalized=True, whole=whole)

    def _rows(self, first: Array) -> Array:
        """Returns rows first, ..., first + block - 1; rows past the last mean nothing."""
        positions = self.queries[0].shape[1]
        halo = 1 if self.fusion else 0
        index = first - halo + jnp.arange(self.block + 2 * halo)
        # Beyond its edge the plane is 0 to the convolution.
        in_bounds = ((index >= 0) & (index < positions))[:, None]
        index = index.clip(0, positions - 1)
        with precision.exact():  # They may be made after the network has run.
            maps = [
                jnp.where(in_bounds, _attend(query[:, index], key, self.inside), 0)
                for query, key in zip(self.queries, self.keys, strict=True)
            ]
        rows = _combine_maps(maps, self.fusion, halo=True)
        return _scale_rows(rows) if self.normalized else rows


def _combine_maps(maps: list[Array], fusion: FusionWeights | None, halo: bool = False) -> Array:
    """Fuses maps by the gate, or takes their mean without one; a single map stays as it is."""
    if fusion is not None:
        return _shard_by_query(fuse(maps, fusion, halo))
    return maps[0] if len(maps) == 1 else sum(maps) / len(maps)


def combine(sources: Sequence[Pairwise], fusion: FusionWeights | None) -> Pairwise:
    """Combines the pairwise affinities of several sources.

    Args:
      sources: affinities of one batch, with one block size.
      fusion: weights of the gate, see `fusion.fuse`; None: their mean.
    """
    whole = None
    if sources[0].whole is not None:
        whole = _combine_maps([source.whole for source in sources], fusion)
    queries = tuple(query for source in sources for query in source.queries)
    keys = tuple(key for source in sources for key in source.keys)
    return Pairwise(queries, keys, sources[0].inside, fusion, whole, sources[0].block)


def rows_per_block(batch: int, positions: int, sources: int, block_mib: float) -> int:
    """Returns how many rows of the affinities are made at a time.

    All rows are one block where the affinities of a batch, their fusion and its gradient fit in
    `block_mib` MiB. Otherwise the blocks are of about one size.

    Args:
      batch: photos that are traced together.
      positions: N.
      sources: affinities that are fused.
      block_mib: memory for them.
    """
    maps = MAPS_ALIVE_EACH * max(sources, 2)
    rows = max(int(block_mib * 2**20 / (maps * 4 * batch * positions)), 1)
    blocks = -(-positions // rows)
    return -(-positions // blocks)


class TaskAffinity(nn.Module):
    """Affinities of one task's features, and the features enhanced by them.

    A = softmax_j(theta(E)_i . phi(E)_j), u = softmax_j(m(E)_j), E' = E + W[A g(E)] + W[1 u^T g(E)]
    with 1x1 convolutions theta, phi, g, W: D -> D and m: D -> 1. With several heads, each has its
    share of the channels of theta, phi and g, and an A of its own.

    Attributes:
      pairwise: whether there is A.
      unary: whether there is u.
      whiten: subtract the spatial mean from theta and phi (DNL).
      scale: divide theta . phi by the square root of a head's channels.
      heads: number of heads.
      block_mib: memory in MiB, see `rows_per_block`. It does not change what is computed. The batch
        is what is traced; where devices share it, see `AuxSegNet.shared_by`.
      sources: affinities that will be fused; for the memory.
    """

    pairwise: bool = True
    unary: bool = True
    whiten: bool = False
    scale: bool = False
    heads: int = 1
    block_mib: float = 2048.0
    sources: int = 2

    @nn.compact
    def __call__(
        self, features: Float[Array, "B h w D"], inside: Bool[Array, "B h w"] | None = None
    ) -> tuple[Float[Array, "B h w D"], list[Pairwise], Float[Array, "B N"] | None]:
        """Returns E', A of each head (rows sum to 1), and u (sums to 1) or None.

        Positions that are False in `inside` (padding of a bucket) are no keys of the softmaxes.
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
            query = nn.Dense(channels, **init, name="theta")(flat)
            key = nn.Dense(channels, **init, name="phi")(flat)
            if self.whiten:
                query, key = query - _mean(query, keys), key - _mean(key, keys)
            if self.scale:
                query *= (channels // self.heads) ** -0.5
            block = rows_per_block(batch, positions, self.sources, self.block_mib)
            parts = (jnp.split(x, self.heads, axis=-1) for x in (query, key))
            for head in map(Attention, *parts):
                affinities.append(Pairwise.from_attention(head, keys, block))
        if self.unary:
            logits = nn.Dense(1, **init, name="m")(flat)[:, None, :, 0]
            weights = nn.softmax(_mask_keys(logits.astype(jnp.float32), keys))
            attention = weights[:, 0].astype(logits.dtype)
        value = _replicate(nn.Dense(channels, **init, name="g")(flat))
        gathered = 0.0
        if affinities:
            gathered += _gather_values(affinities, value)
        # W is linear but for its bias, so W[a] + W[b] = W_kernel(a + b) + 2 bias; the second bias
        # is absorbed by the first.
        if attention is not None:
            gathered += jnp.einsum("bj,bjd->bd", attention, value)[:, None]
        enhanced = flat + nn.Dense(channels, **init, name="W")(gathered)
        return enhanced.reshape(features.shape), affinities, attention


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
    flat = _replicate(stacked)
    refined = flat if affinity is None else affinity.map_rows(lambda rows: rows @ flat)
    if attention is not None:
        gamma = jnp.concatenate(
            [jnp.broadcast_to(g, p.shape[-1:]) for g, p in zip(gammas, predictions, strict=True)]
        )
        refined = refined + gamma * jnp.einsum("bj,bjc->bc", attention, flat)[:, None]
    refined = refined.reshape(batch, height, width, -1)
    ends = [sum(p.shape[-1] for p in predictions[: k + 1]) for k in range(len(predictions))]
    return jnp.split(refined, ends[:-1], axis=-1)


def _attend(
    query: Float[Array, "B R D"],
    key: Float[Array, "B N D"],
    inside: Bool[Array, "B 1 N"] | None,
) -> Float[Array, "B R N"]:
    """Returns softmax_j(query_i . key_j)."""
    logits = jnp.einsum("bid,bjd->bij", query, key, preferred_element_type=jnp.float32)
    return _shard_by_query(nn.softmax(_mask_keys(logits, inside)).astype(query.dtype))


def _shard_by_query(rows: Array) -> Array:
    """Splits the rows of [B, R, ...] over devices, where the mesh has an axis for them."""
    return nn.with_logical_constraint(rows, ("photos", "queries", None))


def _replicate(values: Array) -> Array:
    """Makes [B, N, C] whole on the devices that share the rows of the affinity."""
    return nn.with_logical_constraint(values, ("photos", None, None))


def _scale_rows(rows: Array) -> Array:
    """Scales rows to sum to 1."""
    return (rows / (rows.sum(-1, keepdims=True, dtype=jnp.float32) + 1e-8)).astype(rows.dtype)


def _mask_keys(logits: Array, inside: Array | None) -> Array:
    """Keeps the softmax off the positions outside the photo."""
    return logits if inside is None else jnp.where(inside, logits, _OUTSIDE_LOGIT)


def _mean(x: Float[Array, "B N D"], inside: Bool[Array, "B 1 N"] | None) -> Float[Array, "B 1 D"]:
    """Returns the mean over the positions inside the photo."""
    if inside is None:
        return x.mean(1, keepdims=True)
    weight = inside[:, 0, :, None].astype(x.dtype)
    return (x * weight).sum(1, keepdims=True) / jnp.maximum(weight.sum(1, keepdims=True), 1)
