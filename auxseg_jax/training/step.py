"""Train state and the one jitted train step, for the classifier phase and for the stages alike."""

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


def init_params(network: nn.Module, image_size: tuple[int, int], seed: int, mesh: Mesh) -> dict:
    """Freshly initialised parameters, made in place on the mesh."""
    image = jnp.zeros((1, *image_size, 3))
    init = jax.jit(lambda key: network.init(key, image)["params"], out_shardings=sharding.replicated(mesh))
    return init(jax.random.key(seed))


def create_state(params: dict, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """State of step 0 around `params`, which are copied: the step donates its state."""

    def make(params: dict, seed: jax.Array) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), seed, jax.tree.map(jnp.copy, params), optimizer.init(params))

    return jax.jit(make, out_shardings=sharding.replicated(mesh))(params, np.uint32(seed))


def make_train_step(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    loss_function: Callable[[dict, dict], dict[str, jax.Array]],
    weights: dict[str, float],
    mesh: Mesh,
    *,
    dense: bool,
    frozen: Sequence[str],
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The jitted step (state, batch) -> (state, metrics). The state is donated.

    Args:
      network, optimizer: what is trained and how.
      loss_function: (outputs, batch) -> dict of named losses.
      weights: of `losses.total`.
      mesh: batch is split over it.
      dense: whether the network runs its dense branches.
      frozen: patterns of parameters without gradient; what only they need is never computed.

    Dropout's key is the state's seed folded with its step: were the seed a constant of the program, every stage would compile it anew.
    Metrics: every loss by name, "loss" their weighted sum, "grad_norm", and "grad_norms", the norm of each
    parameter's gradient in the order of `trees.flatten(params)`.
    """

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        keep = trees.mask(state.params, frozen)

        def compute_loss(params):
            params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, keep)
            outputs = network.apply({"params": params}, batch["image"], train=True, dense=dense, rngs={"dropout": key})
            losses = loss_function(outputs, batch)
            return losses_lib.total(losses, **weights), losses

        (loss, losses), grads = jax.value_and_grad(compute_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        norms = jnp.stack([jnp.linalg.norm(g) for g in trees.flatten(grads).values()])
        metrics = losses | {"loss": loss, "grad_norm": jnp.linalg.norm(norms), "grad_norms": norms}
        return TrainState(state.step + 1, state.seed, optax.apply_updates(state.params, updates), opt_state), metrics

    whole = sharding.replicated(mesh)
    return platform.jit(train_step, in_shardings=(whole, sharding.batch_sharding(mesh)), out_shardings=(whole, whole), donate_argnums=0)
