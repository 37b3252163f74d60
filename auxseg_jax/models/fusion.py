"""Fusion of affinities across tasks by a learned gate (arXiv 2107.11787), with its own gradient.

Letters: B batch, N positions, T affinities that are fused.
"""

import functools
import itertools
import typing
from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from auxseg_jax.arrays import Array
from auxseg_jax.models.layers import uniform_init

MAPS_ALIVE_EACH = 6
"""Maps as large as A that fusing holds at once with its gradient, for each affinity fused.

The forward pass alone holds a third.
"""


@typing.no_type_check  # JAX puts placeholders into the fields of trees.
class FusionWeights(flax.struct.PyTreeNode):
    """Weights of the gate softmax_t(conv1x1(relu(conv3x3(maps)))).

    Attributes:
      kernel_3x3: without bias.
      kernel_1x1: kernel of the second convolution.
      bias: bias of the second convolution.
    """

    kernel_3x3: Float[Array, "3 3 T T"]
    kernel_1x1: Float[Array, "T T"]
    bias: Float[Array, " T"]


class CrossTaskFusion(nn.Module):
    """The parameters that fuse the maps of several tasks into one: see `fuse`."""

    tasks: int = 2

    @nn.compact
    def __call__(self) -> FusionWeights:
        maps = self.tasks
        first = _ConvolutionWeights((3, 3, maps, maps), has_bias=False, name="conv_3x3")()
        second = _ConvolutionWeights((1, 1, maps, maps), has_bias=True, name="conv_1x1")()
        return FusionWeights(first["kernel"], second["kernel"][0, 0], second["bias"])


class _ConvolutionWeights(nn.Module):
    """The parameters of a convolution that is applied elsewhere."""

    shape: tuple[int, ...]
    has_bias: bool

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        init = uniform_init(int(np.prod(self.shape[:-1])))
        weights = {"kernel": self.param("kernel", init["kernel_init"], self.shape)}
        if self.has_bias:
            weights["bias"] = self.param("bias", init["bias_init"], self.shape[-1:])
        return weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def fuse(
    maps: Sequence[Float[Array, "B R N"]], weights: FusionWeights, halo: bool = False
) -> Float[Array, "B r N"]:
    """Returns sum_t G_t * map_t with the gate G = softmax_t(conv1x1(relu(conv3x3(maps)))).

    Rows of the fused map no longer sum to 1. The gradient keeps the maps alone and computes the
    rest again, for what is made on the way is several times as large.

    Args:
      maps: one of each task: rows of the N x N plane on which the 3x3 convolution runs, or unary
        ones laid out as [B, h, w].
      weights: weights of the gate.
      halo: the maps have one row more at both ends, which the convolution sees and the result
        leaves out.
    """
    return sum(gated(maps, weights, halo))


def gated(
    maps: Sequence[Float[Array, "B R N"]], weights: FusionWeights, halo: bool = False
) -> list[Float[Array, "B r N"]]:
    """Returns G_t * map_t of each map, see `fuse`."""
    _, gates = _gates(maps, weights, halo)
    return [gate * plane for gate, plane in zip(gates, _without_halo(maps, halo), strict=True)]


def _without_halo(maps: Sequence[Array], halo: bool) -> list[Array]:
    return [plane[:, 1:-1] if halo else plane for plane in maps]


def _gates(
    maps: Sequence[Array], weights: FusionWeights, halo: bool
) -> tuple[list[Array], list[Array]]:
    """Returns what the 3x3 convolution gives and the gate, each a plane [B, R, N] a task.

    The convolution is a sum of shifted planes. A real one with so few channels would leave most of
    a matrix unit, and of a padded layout, empty.
    """
    tasks = range(len(maps))
    shifted = _shifted(maps, halo)
    kernel = weights.kernel_3x3
    taps = list(itertools.product(range(3), range(3), tasks))
    hidden = [
        sum(shifted(i, j, t) * kernel[i, j, t, output] for i, j, t in taps) for output in tasks
    ]
    active = [nn.relu(plane) for plane in hidden]
    logits = [
        sum(active[s] * weights.kernel_1x1[s, t] for s in tasks) + weights.bias[t] for t in tasks
    ]
    largest = functools.reduce(jnp.maximum, logits)
    exponentials = [jnp.exp((logit - largest).astype(jnp.float32)) for logit in logits]
    total = sum(exponentials)
    return hidden, [(e / total).astype(maps[0].dtype) for e in exponentials]


def _shifted(maps: Sequence[Array], halo: bool) -> Callable[[int, int, int], Array]:
    """Returns (i, j, task) -> the plane that the kernel's tap [i, j] multiplies."""
    rows, columns = maps[0].shape[1] - 2 * halo, maps[0].shape[2]
    edges = ((0, 0), (0, 0) if halo else (1, 1), (1, 1))
    padded = [jnp.pad(plane, edges) for plane in maps]
    return lambda i, j, task: padded[task][:, i : i + rows, j : j + columns]


def _fuse_forward(maps: Sequence[Array], weights: FusionWeights, halo: bool):
    return fuse(maps, weights, halo), (maps, weights)


def _fuse_backward(halo: bool, residuals, cotangent: Array):
    maps, weights = residuals
    tasks = range(len(maps))
    hidden, gates = _gates(maps, weights, halo)
    # The softmax: d_logit_t = G_t (d_t - sum_s G_s d_s) with d_t = cotangent * map_t.
    d_gates = [cotangent * plane for plane in _without_halo(maps, halo)]
    mean = sum(gate * d_gate for gate, d_gate in zip(gates, d_gates, strict=True))
    d_logits = [gate * (d_gate - mean) for gate, d_gate in zip(gates, d_gates, strict=True)]
    d_hidden = [
        jnp.where(hidden[s] > 0, sum(d_logits[t] * weights.kernel_1x1[s, t] for t in tasks), 0)
        for s in tasks
    ]
    d_maps = _maps_gradient(maps, weights, d_hidden, [cotangent * gate for gate in gates], halo)
    d_weights = _weights_gradient(maps, weights, hidden, d_hidden, d_logits, halo)
    return d_maps, d_weights


def _maps_gradient(
    maps: Sequence[Array],
    weights: FusionWeights,
    d_hidden: Sequence[Array],
    direct: Sequence[Array],
    halo: bool,
) -> list[Array]:
    """Returns the gradient of each map: the direct part, and that through the convolution.

    The gradient of a convolution is the convolution with the turned kernel.
    """
    tasks = range(len(maps))
    edge = 2 if halo else 1
    padded = [jnp.pad(plane, ((0, 0), (edge, edge), (1, 1))) for plane in d_hidden]
    rows, columns = maps[0].shape[1:]
    kernel = weights.kernel_3x3
    gradients = []
    for t in tasks:
        own = jnp.pad(direct[t], ((0, 0), (int(halo), int(halo)), (0, 0)))
        taps = itertools.product(range(3), range(3), tasks)
        through = sum(
            padded[s][:, 2 - i : 2 - i + rows, 2 - j : 2 - j + columns] * kernel[i, j, t, s]
            for i, j, s in taps
        )
        gradients.append(own + through)
    return gradients


def _weights_gradient(
    maps: Sequence[Array],
    weights: FusionWeights,
    hidden: Sequence[Array],
    d_hidden: Sequence[Array],
    d_logits: Sequence[Array],
    halo: bool,
) -> FusionWeights:
    tasks = range(len(maps))
    shifted = _shifted(maps, halo)

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32))

    taps = itertools.product(range(3), range(3), tasks, tasks)
    d_3x3 = jnp.stack([dot(shifted(i, j, t), d_hidden[s]) for i, j, t, s in taps])
    pairs = itertools.product(tasks, tasks)
    d_1x1 = jnp.stack([dot(nn.relu(hidden[s]), d_logits[t]) for s, t in pairs])
    d_bias = jnp.stack([d_logit.sum(dtype=jnp.float32) for d_logit in d_logits])
    gradients = FusionWeights(
        d_3x3.reshape(weights.kernel_3x3.shape), d_1x1.reshape(weights.kernel_1x1.shape), d_bias
    )
    return jax.tree.map(lambda d, weight: d.astype(weight.dtype), gradients, weights)


fuse.defvjp(_fuse_forward, _fuse_backward)
