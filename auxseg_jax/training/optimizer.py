"""Parameter groups, schedules and optimisers of the recipes."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from auxseg_jax import trees
from auxseg_jax.errors import UserError

NAMES = ("sgd", "adamw")


def poly_schedule(lr: float, power: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """Returns the schedule lr * (1 - step / steps) ** power; past the end the last rate stays.

    The first `warmup` steps rise linearly, from lr / warmup.
    """
    decay = optax.polynomial_schedule(lr, 0.0, power, steps)

    def schedule(step: jax.Array) -> jax.Array:
        rate = decay(jnp.minimum(step, steps - 1))
        return rate * jnp.minimum(1.0, (step + 1) / warmup) if warmup else rate

    return schedule


@dataclasses.dataclass(frozen=True)
class Options:
    """The recipe: the config's `optimizer.*`, the rate of the phase, and the backbone's layers.

    Attributes:
      name: one of NAMES.
      lr: base learning rate.
      power: power of the poly decay.
      warmup: steps of linear warm-up, but at most a quarter of all.
      clip_norm: gradients of a larger global norm are scaled down to it; 0 turns that off.
      momentum: SGD's momentum, or the first moment's decay of AdamW.
      second_momentum: the second moment's decay of AdamW.
      weight_decay: added to the gradient by SGD, decoupled in AdamW.
      heads: patterns of the parameters whose rate is `head_multiplier * lr`.
      head_multiplier: see `heads`.
      layer_decay: each layer of the backbone has this share of the rate of the layer above it.
      frozen: patterns of the parameters that do not train.
      ema: decay of the moving average of the parameters, see `final_params`; 0: there is none.
      layers: patterns of the backbone's parameters from input to output.
    """

    lr: float
    power: float
    warmup: int
    clip_norm: float
    momentum: float
    weight_decay: float
    heads: Sequence[str]
    head_multiplier: float
    frozen: Sequence[str]
    name: str = "sgd"
    second_momentum: float = 0.999
    layer_decay: float = 1.0
    ema: float = 0.0
    layers: Sequence[str] = ()


def make_optimizer(params: dict, steps: int, options: Options) -> optax.GradientTransformation:
    """Makes the optimiser.

    "sgd": buf = momentum * buf + (g + weight_decay * p), p -= rate * buf, as PyTorch has it.
    "adamw": Adam with decoupled weight decay (arXiv 1711.05101), p -= rate * (adam(g) +
    weight_decay * p). The rate is lr(step) times the multiplier of the parameter's group.

    Args:
      params: the parameters, or their shapes; names decide the groups.
      steps: length of the schedule.
      options: the recipe.

    Raises:
      UserError: there is no such optimiser, or a pattern matches no parameter.
    """
    if options.name not in NAMES:
        raise UserError(f"optimizer.name={options.name!r} is not one of {', '.join(NAMES)}")
    layers = options.layers if options.layer_decay != 1 else ()
    # The names of the groups stand in checkpoints.
    groups = {
        "base": _group(1.0, steps, options),
        "head": _group(options.head_multiplier, steps, options),
        "frozen": optax.set_to_zero(),
    }
    for k in range(len(layers)):
        groups[f"layer_{k}"] = _group(options.layer_decay ** (len(layers) - k), steps, options)
    labels = _group_names(params, options.heads, options.frozen, layers)
    parts = [optax.partition(groups, labels)]
    if options.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(options.clip_norm))
    if options.ema:
        parts.append(_average(options.ema))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def final_params(params: dict, opt_state: optax.OptState) -> dict:
    """Returns the parameters that a phase ends with.

    They are the moving average, if the optimiser has one (EMA; arXiv 1703.01780 calls it the mean
    teacher), else the last ones.

    Args:
      params: the last ones.
      opt_state: state of an optimiser of `make_optimizer`.
    """
    return optax.tree.get(opt_state, "average", params)


class _AverageState(NamedTuple):
    step: jax.Array
    average: dict


def _average(decay: float) -> optax.GradientTransformation:
    """Returns the transformation that leaves updates alone and averages the parameters after them.

    Until 1 / (1 - decay) steps are done it is the plain mean, so where it began has no weight.
    """

    def update(updates, state, params):
        share = jnp.maximum(1 / (state.step + 1), 1 - decay)
        change = optax.tree.sub(optax.apply_updates(params, updates), state.average)
        average = optax.tree.add_scale(state.average, share, change)
        return updates, _AverageState(state.step + 1, average)

    return optax.GradientTransformation(
        lambda params: _AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params)),
        update,
    )


def rates(steps: int, options: Options, multiplier: float = 1.0) -> optax.Schedule:
    """Returns the rate of the parameters with a multiplier; of the backbone by default."""
    warmup = min(options.warmup, steps // 4)
    return poly_schedule(options.lr * multiplier, options.power, steps, warmup)


def _group(multiplier: float, steps: int, options: Options) -> optax.GradientTransformation:
    """Returns the optimiser of the parameters whose rate has this multiplier."""
    schedule = rates(steps, options, multiplier)
    momentum, decay = options.momentum, options.weight_decay
    if options.name == "adamw":
        return optax.adamw(schedule, momentum, options.second_momentum, weight_decay=decay)
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum))


def _group_names(
    params: dict, heads: Sequence[str], frozen: Sequence[str], layers: Sequence[str]
) -> dict:
    """Returns a tree of group names: frozen, head, layer_<k>, or base for the rest."""
    is_frozen = trees.flatten(trees.mask(params, frozen))
    if all(is_frozen.values()):
        raise UserError(f"optimizer.frozen={tuple(frozen)}: nothing is left to train")
    is_head = trees.flatten(trees.mask(params, heads))

    def group_of(name: str) -> str:
        if is_frozen[name]:
            return "frozen"
        if is_head[name]:
            return "head"
        matches = (k for k, pattern in enumerate(layers) if re.fullmatch(pattern, name))
        return next((f"layer_{k}" for k in matches), "base")

    return trees.unflatten({name: group_of(name) for name in is_frozen})
