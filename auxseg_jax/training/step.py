"""Train state and the one jitted train step, for the classifier phase and for the stages alike."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from auxseg_jax import trees
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.models import auxsegnet
from auxseg_jax.training import losses as losses_lib


@struct.dataclass
class TrainState:
    """All that a checkpoint holds.

    Attributes:
      step: number of updates done.
      seed: seed of dropout.
      params: parameters.
      opt_state: state of the optimiser.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a train step minimises, and how.

    Attributes:
      loss: (outputs, batch, counts of the whole batch) -> named losses.
      weights: options of `losses.total`.
      dense: whether the network runs its dense branches.
      frozen: patterns of parameters without gradient; what only they need is never computed.
      accumulate: parts of a batch that are done one after the other. Their gradients add up to that
        of the batch.
    """

    loss: Callable[[dict, dict, dict], dict[str, jax.Array]]
    weights: Mapping[str, float]
    dense: bool
    frozen: Sequence[str]
    accumulate: int = 1


def make_init(
    network: nn.Module, image_size: tuple[int, int], mesh: Mesh
) -> Callable[[jax.Array], dict]:
    """Returns the jitted function from a key to new parameters, made in place on the mesh."""
    image = jnp.zeros((1, *image_size, 3))

    def init(key: jax.Array) -> dict:
        return network.init(key, image)["params"]

    shardings = mesh_lib.tree_sharding(jax.eval_shape(init, jax.random.key(0)), mesh)
    platform = mesh_lib.platform_of(mesh)
    return compilation.jit(init, platform, once=True, out_shardings=shardings)


def create_state(
    params: dict, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """Returns the state of step 0 around a copy of `params`: the step donates its state."""
    shapes = abstract_state(params, optimizer, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    make = functools.partial(_new_state, optimizer)
    platform = mesh_lib.platform_of(mesh)
    return compilation.jit(make, platform, once=True, out_shardings=shardings)(
        params, np.uint32(seed)
    )


def abstract_state(params: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns shapes and shardings of the state around `params` (arrays or shapes)."""
    shapes = jax.eval_shape(functools.partial(_new_state, optimizer), params, np.uint32(0))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        mesh_lib.tree_sharding(shapes, mesh),
    )


def _new_state(
    optimizer: optax.GradientTransformation, params: dict, seed: jax.Array
) -> TrainState:
    copy = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), seed, copy, optimizer.init(params))


def make_train_step(
    network: nn.Module, optimizer: optax.GradientTransformation, objective: Objective, mesh: Mesh
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """Returns the jitted step (state, batch) -> (state, metrics). The state is donated.

    The key of dropout is the state's seed folded with its step, and with the part if there are
    several. Were the seed a constant of the program, every stage would compile it anew.

    Args:
      network: what is trained.
      optimizer: how.
      objective: what for.
      mesh: batch and state are split over it, see `devices.mesh`.

    Returns:
      The step. Its metrics are every loss by name, "loss" their weighted sum, "grad_norm", and
      "grad_norms", the norm of each parameter's gradient in the order of `trees.flatten(params)`.
    """
    network = network.shared_by(mesh.size)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        with mesh_lib.logical_axes(mesh):
            losses, grads = _gradients(network, objective, mesh, state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norms = jnp.stack([jnp.linalg.norm(g) for g in trees.flatten(grads).values()])
        metrics = losses | {"grad_norm": jnp.linalg.norm(norms), "grad_norms": norms}
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, state.seed, params, opt_state)
        return mesh_lib.lay_out(state, mesh), metrics

    platform, replicated = mesh_lib.platform_of(mesh), mesh_lib.replicated(mesh)
    return compilation.jit(train_step, platform, out_shardings=(None, replicated), donate_argnums=0)


def _inside(batch: dict) -> jax.Array:
    """Returns where the crops of a batch are not padded, bool [B, S, S]."""
    rows, columns = (jnp.arange(n) for n in batch["image"].shape[1:3])
    top, left, bottom, right = batch["window"].T[..., None]
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None, :]


def _gradients(
    network: nn.Module, objective: Objective, mesh: Mesh, params: dict, batch: dict, key: jax.Array
) -> tuple[dict[str, jax.Array], dict]:
    """Returns the losses of a batch and the gradients of the parameters."""
    frozen = trees.mask(params, objective.frozen)
    counts = losses_lib.counts(batch)

    def compute_loss(params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        params = jax.tree.map(
            lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen
        )
        variables = {"params": mesh_lib.gather(network.cast(params), mesh)}
        options = {"train": True, "dense": objective.dense, "rngs": {"dropout": key}}
        inside = _inside(batch)
        image = auxsegnet.normalize(network, batch["image"], inside)
        outputs = network.apply(variables, image, inside=inside, **options)
        losses = objective.loss(outputs, batch, counts)
        return losses_lib.total(losses, **objective.weights), losses

    def part_gradients(batch: dict, key: jax.Array) -> tuple[dict, dict]:
        differentiate = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, losses), grads = differentiate(params, batch, key)
        return losses | {"loss": loss}, mesh_lib.lay_out(grads, mesh)

    if objective.accumulate == 1:
        return part_gradients(batch, key)
    parts = (
        mesh_lib.split_batch(batch, objective.accumulate, mesh),
        jax.random.split(key, objective.accumulate),
    )
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(part_gradients, *first))

    def add_part(sums: tuple, part: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, sums, part_gradients(*part)), None

    sums, _ = jax.lax.scan(add_part, zeros, parts)
    return sums
