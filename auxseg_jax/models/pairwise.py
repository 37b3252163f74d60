"""A pairwise affinity: its rows, and several of them fused (arXiv 2107.11787).

Letters: B batch, N = h * w positions of the feature grid (row-major), D task channels, C channels
of a prediction.

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
from auxseg_jax.models.fusion import MAPS_ALIVE_EACH, FusionWeights, fuse, gated

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
        query, key = _shard_by_query(attention.query), replicate(attention.key)
        whole = attend(query, key, inside) if block == query.shape[1] else None
        return cls((query,), (key,), inside, None, whole, block)

    def map_rows(
        self, function: Callable[[Float[Array, "B R N"]], Float[Array, "B R C"]]
    ) -> Float[Array, "B N C"]:
        """Applies a function that sees each row by itself to all rows."""
        if self.whole is not None:
            return replicate(_shard_by_query(function(self.whole)))
        return self._map_blocks(lambda first: function(self._rows(first)))

    def source_sums(self) -> Float[Array, "B N S"]:
        """Returns of each row how much of its sum comes from each source, through the gate."""

        def sums(first: Array) -> Array:
            maps = self._maps(first)
            if self.fusion is not None:
                parts = gated(maps, self.fusion, halo=True)
            else:
                parts = [plane / len(maps) for plane in maps]
            return jnp.stack([part.sum(-1) for part in parts], -1)

        return self._map_blocks(sums)

    def _map_blocks(self, function: Callable[[Array], Array]) -> Float[Array, "B N C"]:
        """Applies a function of the first row of a block to all blocks."""
        positions = self.queries[0].shape[1]
        # A loop does not merge what the gradient makes again, so there is no need to prevent it.
        block_result = jax.checkpoint(
            lambda first: _shard_by_query(function(first)), prevent_cse=False
        )
        blocks = jax.lax.map(block_result, jnp.arange(0, positions, self.block))
        rows = jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1, blocks.shape[-1])
        return replicate(rows[:, :positions])

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
        rows = _combine_maps(self._maps(first), self.fusion, halo=True)
        return _scale_rows(rows) if self.normalized else rows

    def _maps(self, first: Array) -> list[Array]:
        """Returns the rows of each source, and one more at both ends where they are fused."""
        positions = self.queries[0].shape[1]
        halo = 1 if self.fusion else 0
        index = first - halo + jnp.arange(self.block + 2 * halo)
        # Beyond its edge the plane is 0 to the convolution.
        in_bounds = ((index >= 0) & (index < positions))[:, None]
        index = index.clip(0, positions - 1)
        with precision.exact():  # They may be made after the network has run.
            return [
                jnp.where(in_bounds, attend(query[:, index], key, self.inside), 0)
                for query, key in zip(self.queries, self.keys, strict=True)
            ]


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


def attend(
    query: Float[Array, "B R D"],
    key: Float[Array, "B N D"],
    inside: Bool[Array, "B 1 N"] | None,
) -> Float[Array, "B R N"]:
    """Returns softmax_j(query_i . key_j)."""
    logits = jnp.einsum("bid,bjd->bij", query, key, preferred_element_type=jnp.float32)
    return _shard_by_query(nn.softmax(mask_keys(logits, inside)).astype(query.dtype))


def _shard_by_query(rows: Array) -> Array:
    """Splits the rows of [B, R, ...] over devices, where the mesh has an axis for them."""
    return nn.with_logical_constraint(rows, ("photos", "queries", None))


def replicate(values: Array) -> Array:
    """Makes [B, N, C] whole on the devices that share the rows of the affinity."""
    return nn.with_logical_constraint(values, ("photos", None, None))


def _scale_rows(rows: Array) -> Array:
    """Scales rows to sum to 1."""
    return (rows / (rows.sum(-1, keepdims=True, dtype=jnp.float32) + 1e-8)).astype(rows.dtype)


def mask_keys(logits: Array, inside: Array | None) -> Array:
    """Keeps the softmax off the positions outside the photo."""
    return logits if inside is None else jnp.where(inside, logits, _OUTSIDE_LOGIT)
