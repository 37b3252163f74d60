"""Dual-affinity learning: pairwise and unary affinities of each task, their fusion across tasks, and what they refine.

Letters: B batch, h w feature grid, N = h*w positions (row-major), D task channels, C channels of a prediction, T tasks.
Sources: pairwise and cross-task affinity arXiv 2107.11787; dual affinity arXiv 2403.01156 (abstract), filled in after
DNL (arXiv 2006.06668) where it is silent: the unary attention, its fusion, and the gate gamma.

N grows with the photo and N x N with its square (527 MiB a map at twice the usual size): a `Pairwise` affinity is kept as what
it is made of, and its rows are made in blocks where they are used, and made again for the gradient. Where all of them fit in one
block, they are made once.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from auxseg_jax.models.layers import uniform_init

_LIVE = 12  # maps as large as A that fusing two tasks and its gradient hold at once (forward alone: 4); one task takes less
_NEVER = -1e9  # logit of a position outside the photo; exp of it is exactly 0 in float32


class FusionWeights(flax.struct.PyTreeNode):
    """Of the gate softmax_t(conv1x1(relu(conv3x3(maps)))): kernels [3, 3, T, T] without bias and [T, T], and the latter's bias [T]."""

    kernel_3x3: jax.Array
    kernel_1x1: jax.Array
    bias: jax.Array


class Pairwise(flax.struct.PyTreeNode):
    """A pairwise affinity A [B, N, N]: softmax_j(query_i . key_j) of one task, or those of several tasks, fused.

    Attributes:
      queries, keys: [B, N, D] of each task.
      inside: bool [B, 1, N] or None; positions that are False are no keys.
      fusion: weights of the gate, if there are several tasks.
      whole: A, made once, if all its rows are one block; else None.
      block: rows made at a time.
      normalized: whether rows are scaled to sum to 1; those of a single task do so anyway.
    """

    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    inside: jax.Array | None
    fusion: FusionWeights | None
    whole: jax.Array | None
    block: int = flax.struct.field(pytree_node=False)
    normalized: bool = flax.struct.field(pytree_node=False, default=False)

    @classmethod
    def of(cls, matrix: jax.Array) -> "Pairwise":
        """The affinity that is given as a whole, [B, N, N]."""
        return cls((), (), None, None, matrix, matrix.shape[1])

    def map_rows(self, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """function(rows [B, R, N]) -> [B, R, C], put together to [B, N, C]. It sees each row by itself."""
        if self.whole is not None:
            return _everywhere(_by_query(function(self.whole)))
        positions = self.queries[0].shape[1]
        of_block = jax.checkpoint(lambda first: _by_query(function(self._rows(first))), prevent_cse=False)  # a loop does not merge what is made again
        blocks = jax.lax.map(of_block, jnp.arange(0, positions, self.block))
        return _everywhere(jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1, blocks.shape[-1])[:, :positions])

    def row(self, position: int) -> jax.Array:
        """One row of A, [B, N]: what a position speaks to."""
        if self.whole is not None:
            return self.whole[:, position]
        return self.replace(block=1)._rows(jnp.asarray(position))[:, 0]

    def normalize_rows(self) -> "Pairwise":
        """The same with rows that sum to 1."""
        return self.replace(normalized=True, whole=None if self.whole is None else _scaled(self.whole))

    def _rows(self, first: jax.Array) -> jax.Array:
        """Rows first, ..., first + block - 1; what lies past the last means nothing."""
        positions = self.queries[0].shape[1]
        halo = 1 if self.fusion else 0
        index = first - halo + jnp.arange(self.block + 2 * halo)
        there = ((index >= 0) & (index < positions))[:, None]  # beyond its edge the plane is 0 to the convolution
        index = index.clip(0, positions - 1)
        maps = [jnp.where(there, _attend(q[:, index], k, self.inside), 0) for q, k in zip(self.queries, self.keys, strict=True)]
        rows = _by_query(fuse(maps, self.fusion, True)) if self.fusion else maps[0]
        return _scaled(rows) if self.normalized else rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def fuse(maps: list[jax.Array], weights: FusionWeights, halo: bool = False) -> jax.Array:
    """sum_t G_t * map_t with the gate G = softmax_t(conv1x1(relu(conv3x3(maps)))). Rows of the fused map no longer sum to 1.

    Its gradient keeps the maps alone and makes the rest again: what is made on the way is several times as large.

    Args:
      maps: [B, R, N] of each task, rows of the N x N plane on which the 3x3 convolution runs; or unary ones [B, h, w].
      weights: of the gate.
      halo: the maps have one row more at both ends, which the convolution sees and the result leaves out.
    """
    _, gates = _gates(maps, weights, halo)
    return sum(gate * plane for gate, plane in zip(gates, _inner(maps, halo), strict=True))


def _inner(maps: list[jax.Array], halo: bool) -> list[jax.Array]:
    return [plane[:, 1:-1] if halo else plane for plane in maps]


def _gates(maps: list[jax.Array], weights: FusionWeights, halo: bool) -> tuple[list[jax.Array], list[jax.Array]]:
    """What the 3x3 convolution gives, and the gate: a plane [B, R, N] each task.

    The convolution is a sum of shifted planes: of a real one with so few channels most of a matrix unit, and of a padded layout, would be empty.
    """
    tasks = range(len(maps))
    shifted = _shifted(maps, halo)
    taps = list(itertools.product(range(3), range(3), tasks))
    hidden = [sum(shifted(i, j, t) * weights.kernel_3x3[i, j, t, output] for i, j, t in taps) for output in tasks]
    logits = [sum(nn.relu(hidden[s]) * weights.kernel_1x1[s, t] for s in tasks) + weights.bias[t] for t in tasks]
    largest = functools.reduce(jnp.maximum, logits)
    exponentials = [jnp.exp((logit - largest).astype(jnp.float32)) for logit in logits]
    return hidden, [(e / sum(exponentials)).astype(logit.dtype) for e, logit in zip(exponentials, logits, strict=True)]


def _shifted(maps: list[jax.Array], halo: bool) -> Callable[[int, int, int], jax.Array]:
    """(i, j, task) -> the plane that the kernel's tap [i, j] multiplies."""
    rows, columns = maps[0].shape[1] - 2 * halo, maps[0].shape[2]
    padded = [jnp.pad(plane, ((0, 0), (0, 0) if halo else (1, 1), (1, 1))) for plane in maps]
    return lambda i, j, task: padded[task][:, i : i + rows, j : j + columns]


def _fuse_forward(maps: list[jax.Array], weights: FusionWeights, halo: bool):
    return fuse(maps, weights, halo), (maps, weights)


def _fuse_backward(halo: bool, residuals, cotangent: jax.Array):
    maps, weights = residuals
    tasks = range(len(maps))
    hidden, gates = _gates(maps, weights, halo)
    through_gates = [cotangent * plane for plane in _inner(maps, halo)]
    mean = sum(gate * through for gate, through in zip(gates, through_gates, strict=True))
    of_logits = [gate * (through - mean) for gate, through in zip(gates, through_gates, strict=True)]
    of_hidden = [jnp.where(hidden[s] > 0, sum(of_logits[t] * weights.kernel_1x1[s, t] for t in tasks), 0) for s in tasks]
    # of the convolution: that of the turned kernel
    edge = 2 if halo else 1
    padded = [jnp.pad(plane, ((0, 0), (edge, edge), (1, 1))) for plane in of_hidden]
    rows, columns = maps[0].shape[1:]
    of_maps = []
    for t in tasks:
        direct = jnp.pad(cotangent * gates[t], ((0, 0), (int(halo), int(halo)), (0, 0)))
        taps = itertools.product(range(3), range(3), tasks)
        of_maps.append(direct + sum(padded[s][:, 2 - i : 2 - i + rows, 2 - j : 2 - j + columns] * weights.kernel_3x3[i, j, t, s] for i, j, s in taps))
    shifted = _shifted(maps, halo)

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32))

    of_3x3 = jnp.stack([dot(shifted(i, j, t), of_hidden[s]) for i, j, t, s in itertools.product(range(3), range(3), tasks, tasks)])
    of_1x1 = jnp.stack([dot(nn.relu(hidden[s]), of_logits[t]) for s, t in itertools.product(tasks, tasks)])
    of_bias = jnp.stack([of_logit.sum(dtype=jnp.float32) for of_logit in of_logits])
    of_weights = FusionWeights(of_3x3.reshape(weights.kernel_3x3.shape), of_1x1.reshape(weights.kernel_1x1.shape), of_bias)
    return of_maps, jax.tree.map(lambda gradient, weight: gradient.astype(weight.dtype), of_weights, weights)


fuse.defvjp(_fuse_forward, _fuse_backward)


class TaskAffinity(nn.Module):
    """Affinities of one task's features, and the features enhanced by them.

    A = softmax_j(theta(E)_i . phi(E)_j), u = softmax_j(m(E)_j), E' = E + W[A g(E)] + W[1 u^T g(E)]
    with 1x1 convolutions theta, phi, g, W: D -> D and m: D -> 1.

    Attributes:
      pairwise, unary: which of the two affinities there are.
      whiten: subtract the spatial mean from theta and phi (DNL).
      scale: divide theta . phi by sqrt(D).
      block_mib: memory in MiB for the affinities of a batch, their fusion and its gradient: what does not fit is made in blocks of
        rows. It does not change what is computed. The batch is what is traced; where devices share it, see `AuxSegNet.shared_by`.

    Call:
      features: E [B, h, w, D].
      inside: bool [B, h, w] or None; positions that are False (padding of a bucket) are no keys of the softmaxes.

    Returns:
      (E' [B, h, w, D], A as a `Pairwise` or None, u [B, N] or None). Rows of A and u sum to 1.
    """

    pairwise: bool = True
    unary: bool = True
    whiten: bool = False
    scale: bool = False
    block_mib: float = 2048.0

    @nn.compact
    def __call__(self, features: jax.Array, inside: jax.Array | None = None) -> tuple[jax.Array, Pairwise | None, jax.Array | None]:
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
            if self.scale:
                query *= channels**-0.5
            query, key = _by_query(query), _everywhere(key)
            positions = height * width
            rows = max(int(self.block_mib * 2**20 / (_LIVE * 4 * batch * positions)), 1)
            blocks = -(-positions // rows)
            block = -(-positions // blocks)  # of about one size
            whole = _attend(query, key, keys) if block == positions else None
            affinity = Pairwise((query,), (key,), keys, None, whole, block)
        if self.unary:
            logits = nn.Dense(1, **init, name="m")(flat)[:, None, :, 0]
            attention = nn.softmax(_only(logits.astype(jnp.float32), keys))[:, 0].astype(logits.dtype)
        value = _everywhere(nn.Dense(channels, **init, name="g")(flat))
        gathered = 0.0
        if affinity is not None:
            gathered += affinity.map_rows(lambda rows: rows @ value)
        # W is linear but for its bias, so W[a] + W[b] = W_kernel(a + b) + 2 bias; the bias of a constant is absorbed.
        if attention is not None:
            gathered += jnp.einsum("bj,bjd->bd", attention, value)[:, None]
        enhanced = flat + nn.Dense(channels, **init, name="W")(gathered)
        return enhanced.reshape(features.shape), affinity, attention


class CrossTaskFusion(nn.Module):
    """The weights that fuse the maps of several tasks into one: see `fuse`."""

    tasks: int = 2

    @nn.compact
    def __call__(self) -> FusionWeights:
        wide = _Weights((3, 3, self.tasks, self.tasks), bias=False, name="conv_3x3")()
        narrow = _Weights((1, 1, self.tasks, self.tasks), bias=True, name="conv_1x1")()
        return FusionWeights(wide["kernel"], narrow["kernel"][0, 0], narrow["bias"])


class _Weights(nn.Module):
    """The parameters of a convolution that is applied elsewhere."""

    shape: tuple[int, ...]
    bias: bool

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        init = uniform_init(int(np.prod(self.shape[:-1])))
        weights = {"kernel": self.param("kernel", init["kernel_init"], self.shape)}
        return weights | ({"bias": self.param("bias", init["bias_init"], self.shape[-1:])} if self.bias else {})


def fuse_pairwise(tasks: Sequence[Pairwise], weights: FusionWeights) -> Pairwise:
    """The tasks' pairwise affinities fused."""
    queries, keys = (tuple(x for task in tasks for x in getattr(task, side)) for side in ("queries", "keys"))
    whole = None if tasks[0].whole is None else _by_query(fuse([task.whole for task in tasks], weights))
    return Pairwise(queries, keys, tasks[0].inside, weights, whole, tasks[0].block)


def refine(
    predictions: Sequence[jax.Array], affinity: Pairwise | None, attention: jax.Array | None, gammas: Sequence[jax.Array | float]
) -> list[jax.Array]:
    """P_ref = A P + gamma * 1 (u^T P) of each prediction, on logits; without A the first term is P itself.

    Args:
      predictions: P [B, h, w, C] logits, of each task; they go through A together.
      affinity: A or None.
      attention: u [B, N] or None.
      gammas: scalar weights of the unary term, one a task.
    """
    batch, height, width, _ = predictions[0].shape
    flat = _everywhere(jnp.concatenate(predictions, -1).reshape(batch, height * width, -1))
    refined = flat if affinity is None else affinity.map_rows(lambda rows: rows @ flat)
    if attention is not None:
        gamma = jnp.concatenate([jnp.broadcast_to(g, p.shape[-1:]) for g, p in zip(gammas, predictions, strict=True)])
        refined = refined + gamma * jnp.einsum("bj,bjc->bc", attention, flat)[:, None]
    refined = refined.reshape(batch, height, width, -1)
    ends = [sum(p.shape[-1] for p in predictions[: k + 1]) for k in range(len(predictions))]
    return jnp.split(refined, ends[:-1], axis=-1)


def _attend(query: jax.Array, key: jax.Array, keys: jax.Array | None) -> jax.Array:
    """softmax_j(query_i . key_j): [B, R, D] and [B, N, D] -> [B, R, N]."""
    logits = jnp.einsum("bid,bjd->bij", query, key, preferred_element_type=jnp.float32)
    return _by_query(nn.softmax(_only(logits, keys)).astype(query.dtype))


def _by_query(rows: jax.Array) -> jax.Array:
    """[B, R, ...], where a mesh has an axis for them, with its rows split over devices."""
    return nn.with_logical_constraint(rows, ("photos", "queries", None))


def _everywhere(values: jax.Array) -> jax.Array:
    """[B, N, C], whole where rows are split: what they are multiplied with, and what comes of them."""
    return nn.with_logical_constraint(values, ("photos", None, None))


def _scaled(rows: jax.Array) -> jax.Array:
    return (rows / (rows.sum(-1, keepdims=True, dtype=jnp.float32) + 1e-8)).astype(rows.dtype)


def _only(logits: jax.Array, keys: jax.Array | None) -> jax.Array:
    return logits if keys is None else jnp.where(keys, logits, _NEVER)


def _mean(x: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Mean over the positions [B, N, D] that are keys [B, 1, N]."""
    if keys is None:
        return x.mean(1, keepdims=True)
    weight = keys[:, 0, :, None].astype(x.dtype)
    return (x * weight).sum(1, keepdims=True) / jnp.maximum(weight.sum(1, keepdims=True), 1)
