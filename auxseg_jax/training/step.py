"""Train state and the one jitted train step, for the classifier phase and for the stages alike."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from auxseg_jax import platform, sharding, trees
from auxseg_jax.training import losses as losses_lib


@struct.dataclass
class TrainState:
    """All that a checkpoint holds: step (number of updates done), seed of dropout, parameters, optimiser state."""

    step: jax.Array
    seed: jax.Array
    params: Any
    opt_state: Any


def make_init(network: nn.Module, image_size: tuple[int, int], mesh: Mesh) -> Callable[[jax.Array], dict]:
    """The jitted function from a key to freshly initialised parameters, made in place on the mesh."""
    image = jnp.zeros((1, *image_size, 3))

    def init(key: jax.Array) -> dict:
        return network.init(key, image)["params"]

    places = sharding.tree_sharding(jax.eval_shape(init, jax.random.key(0)), mesh)
    return platform.jit(init, sharding.platform_of(mesh), once=True, out_shardings=places)


def create_state(params: dict, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """State of step 0 around `params`, which are copied: the step donates its state."""
    places = jax.tree.map(lambda x: x.sharding, abstract_state(params, optimizer, mesh))
    make = functools.partial(_new_state, optimizer)
    return platform.jit(make, sharding.platform_of(mesh), once=True, out_shardings=places)(params, np.uint32(seed))


def abstract_state(params: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes and places of the state around `params` (arrays or shapes)."""
    shapes = jax.eval_shape(functools.partial(_new_state, optimizer), params, np.uint32(0))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding.tree_sharding(shapes, mesh))


def _new_state(optimizer: optax.GradientTransformation, params: dict, seed: jax.Array) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), seed, jax.tree.map(jnp.copy, params), optimizer.init(params))


def make_train_step(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    loss_function: Callable[[dict, dict, dict], dict[str, jax.Array]],
    weights: dict[str, float],
    mesh: Mesh,
    *,
    dense: bool,
    frozen: Sequence[str],
    accumulate: int = 1,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The jitted step (state, batch) -> (state, metrics). The state is donated.

    Args:
      network, optimizer: what is trained and how.
      loss_function: (outputs, batch, counts of the whole batch) -> dict of named losses.
      weights: of `losses.total`.
      mesh: batch and state are split over it, see `sharding`.
      dense: whether the network runs its dense branches.
      frozen: patterns of parameters without gradient; what only they need is never computed.
      accumulate: parts of a batch, done one after the other, whose gradients add up to that of the batch.

    Dropout's key is the state's seed folded with its step, and with the part if there are several: were the seed a constant of the program,
    every stage would compile it anew.
    Metrics: every loss by name, "loss" their weighted sum, "grad_norm", and "grad_norms", the norm of each
    parameter's gradient in the order of `trees.flatten(params)`.
    """

    network = network.shared_by(mesh.size)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        keep = trees.mask(state.params, frozen)
        counts = losses_lib.counts(batch)

        def compute_loss(params, batch, key):
            params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, keep)
            params = sharding.gather(network.cast(params), mesh)
            outputs = network.apply({"params": params}, batch["image"], train=True, dense=dense, rngs={"dropout": key})
            losses = loss_function(outputs, batch, counts)
            return losses_lib.total(losses, **weights), losses

        def gradients(batch: dict, key: jax.Array) -> tuple[dict, dict]:
            (loss, losses), grads = jax.value_and_grad(compute_loss, has_aux=True)(state.params, batch, key)
            return losses | {"loss": loss}, sharding.lay_out(grads, mesh)

        with sharding.logical_axes(mesh):
            if accumulate == 1:
                losses, grads = gradients(batch, key)
            else:
                parts = sharding.split_batch(batch, accumulate, mesh), jax.random.split(key, accumulate)
                zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradients, *jax.tree.map(lambda x: x[0], parts)))
                (losses, grads), _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, gradients(*part)), None), zeros, parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norms = jnp.stack([jnp.linalg.norm(g) for g in trees.flatten(grads).values()])
        metrics = losses | {"grad_norm": jnp.linalg.norm(norms), "grad_norms": norms}
        state = TrainState(state.step + 1, state.seed, optax.apply_updates(state.params, updates), opt_state)
        return sharding.lay_out(state, mesh), metrics

    return platform.jit(train_step, sharding.platform_of(mesh), out_shardings=(None, sharding.replicated(mesh)), donate_argnums=0)
