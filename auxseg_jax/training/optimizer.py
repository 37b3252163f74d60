"""The recipes' parameter groups and poly schedule, for SGD."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from auxseg_jax import trees


def poly_schedule(lr: float, power: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """lr * (1 - step / steps) ** power, after a linear warm-up of `warmup` of the steps, from lr / warmup; past the end the last rate stays."""
    decay = optax.polynomial_schedule(lr, 0.0, power, steps)

    def schedule(step: jax.Array) -> jax.Array:
        rate = decay(jnp.minimum(step, steps - 1))
        return rate * jnp.minimum(1.0, (step + 1) / warmup) if warmup else rate

    return schedule


def make_optimizer(
    params: dict,
    steps: int,
    *,
    lr: float,
    power: float,
    warmup: int,
    clip_norm: float,
    momentum: float,
    weight_decay: float,
    heads: Sequence[str],
    head_multiplier: float,
    frozen: Sequence[str],
) -> optax.GradientTransformation:
    """SGD: buf = momentum * buf + (g + weight_decay * p), p -= lr(step) * multiplier * buf, g clipped by its global norm.

    Args:
      params: the parameters, or their shapes; names decide the groups.
      steps: length of the schedule.
      lr: base learning rate, of everything that is not a head.
      power: of the poly decay.
      warmup: steps of linear warm-up.
      clip_norm: gradients of a larger global norm are scaled down to it; 0 turns that off.
      momentum, weight_decay: of SGD; weight decay is added to the gradient, as torch does.
      heads: regular expressions of the parameters whose rate is `head_multiplier * lr`.
      frozen: regular expressions of the parameters that do not train.
    """
    groups = jax.tree.map(
        lambda is_frozen, is_head: "frozen" if is_frozen else "head" if is_head else "base",
        trees.mask(params, frozen),
        trees.mask(params, heads),
    )

    def group(multiplier: float) -> optax.GradientTransformation:
        schedule = poly_schedule(lr * multiplier, power, steps, warmup)
        return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))

    by_group = optax.partition({"base": group(1.0), "head": group(head_multiplier), "frozen": optax.set_to_zero()}, groups)
    return optax.chain(optax.clip_by_global_norm(clip_norm), by_group) if clip_norm else by_group
