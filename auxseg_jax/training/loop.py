"""One loop for every phase that trains."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from auxseg_jax import trees
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.devices import preemption
from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import progress, say
from auxseg_jax.training.checkpoint import Checkpoints
from auxseg_jax.training.step import TrainState
from auxseg_jax.training.writer import Writer

_STEPS_UNDER_WAY = 2
"""Steps that may be under way at once: enough to keep the device busy.

More would make SIGTERM wait, and the progress bar lie.
"""

_NAMES_SHOWN = 10


class NonFiniteError(UserError):
    """A loss or gradient is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a phase of training is called, how long it is, and how often it writes things down.

    Attributes:
      name: name of the phase, in logs and on the progress bar.
      steps: number of updates in all.
      checkpoint_dir: folder of the checkpoints.
      log_every: steps between two lines of metrics, which are means over them.
      checkpoint_every: steps between two checkpoints.
      keep: the last checkpoints, so many, are kept.
      lr: number of updates so far -> learning rate of the backbone, for the log.
    """

    name: str
    steps: int
    checkpoint_dir: epath.PathLike
    log_every: int
    checkpoint_every: int
    keep: int
    lr: Callable[[int], Any] = lambda step: 0.0


def fit(
    schedule: Schedule,
    state: TrainState,
    train_step: Callable,
    batches: Callable[[int], Iterator[dict]],
    writer: Writer,
    mesh: Mesh,
) -> TrainState:
    """Trains from the last checkpoint, or from `state`, to the end of the schedule.

    Args:
      schedule: name and length of the phase.
      state: state of step 0 (donated).
      train_step: see `step.make_train_step`.
      batches: start step -> iterator of numpy batches, this host's rows. The same steps always give
        the same batches.
      writer: where metrics go.
      mesh: where batches go.

    Raises:
      Preempted: SIGTERM came; the last step is saved.
      NonFiniteError: it names the step, the losses and the parameters whose gradients are not
        finite.
    """
    names = list(trees.flatten(state.params))
    name, steps = schedule.name, schedule.steps
    with (
        preemption.watched(),
        Checkpoints(schedule.checkpoint_dir, schedule.keep) as checkpoints,
    ):
        state = checkpoints.restore(state)
        start = int(state.step)
        if start >= steps:
            return state
        if start:
            say(f"{name} goes on from step {start} of {steps}")
        writer.rewind(name, start)
        stream = batches(start)
        window: list[dict] = []
        began = time.monotonic()
        note = ""
        say(f"{name}: {steps - start} steps; the first one waits for the compiler")
        with progress(name, steps, unit="step", start=start) as bar:
            for step in range(start + 1, steps + 1):
                batch = mesh_lib.put_batch(next(stream), mesh)
                state, metrics = train_step(state, batch)
                window.append(metrics)
                if len(window) >= _STEPS_UNDER_WAY:
                    jax.block_until_ready(window[-_STEPS_UNDER_WAY])
                stop = preemption.asked()
                save = stop or step % schedule.checkpoint_every == 0 or step == steps
                if save or step % schedule.log_every == 0:
                    values = _mean_metrics(window, names, step)
                    photos = len(window) * len(batch["image"])  # Over all hosts.
                    values["lr"] = float(schedule.lr(step - 1))
                    values["photos_per_second"] = photos / (time.monotonic() - began)
                    speed, loss = values["photos_per_second"], values["loss"]
                    note = f"{speed:.0f} photos/s loss {loss:.4f}"
                    if save:
                        values["checkpoint_seconds"] = checkpoints.save(state, loss)
                    writer.scalars(name, step, values)
                    window, began = [], time.monotonic()
                bar.advance(1, note)
                if stop:
                    where = f"at step {step} of {steps}"
                    raise preemption.Preempted(f"{name} stopped by SIGTERM {where}")
    return state


def _mean_metrics(window: list[dict], names: list[str], step: int) -> dict[str, float]:
    """Returns the means over a window that ends at `step`, after a check that all are finite."""
    window = jax.device_get(window)
    modules = np.array([name.partition("/")[0] for name in names])
    for offset, metrics in enumerate(window):
        norms = metrics.pop("grad_norms")
        if not np.isfinite(metrics["loss"]) or not np.isfinite(norms).all():
            _raise_non_finite(step - len(window) + 1 + offset, metrics, norms, names)
        for module in dict.fromkeys(modules):
            metrics[f"grad_norm_{module}"] = np.linalg.norm(norms[modules == module])
    return {key: float(np.mean([metrics[key] for metrics in window])) for key in window[0]}


def _raise_non_finite(step: int, metrics: dict, norms: np.ndarray, names: list[str]) -> None:
    losses = [f"{key} = {float(v)}" for key, v in metrics.items() if not np.isfinite(v)]
    grads = [name for name, norm in zip(names, norms, strict=True) if not np.isfinite(norm)]
    more = f" and {len(grads) - _NAMES_SHOWN} more" if len(grads) > _NAMES_SHOWN else ""
    raise NonFiniteError(
        f"not finite at step {step}: {', '.join(losses) or 'no loss'}; "
        f"gradients of {', '.join(grads[:_NAMES_SHOWN]) or 'none'}{more}. "
        "The last checkpoint is from before; with a lower learning rate (or optimizer.clip_norm, "
        "optimizer.warmup) it is another run: choose a new --workdir."
    )
