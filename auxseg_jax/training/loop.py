"""One loop for every phase that trains."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from auxseg_jax import preemption, sharding, trees
from auxseg_jax.terminal import console, progress
from auxseg_jax.training.checkpoint import Checkpoints
from auxseg_jax.training.step import TrainState
from auxseg_jax.training.writer import Writer

_AHEAD = 2
"""Steps that may be under way at once: enough to keep the device busy. More would make SIGTERM wait, and the progress bar lie."""


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite."""


def fit(
    name: str,
    state: TrainState,
    train_step: Callable,
    batches: Callable[[int], Iterator[dict]],
    steps: int,
    directory: epath.PathLike,
    writer: Writer,
    mesh: Mesh,
    *,
    log_every: int,
    checkpoint_every: int,
    keep: int,
) -> TrainState:
    """Trains from the last checkpoint under `directory`, or from `state`, up to `steps` updates.

    Args:
      name: of the phase, in logs and on the progress bar.
      state: of step 0 (donated).
      train_step: what `step.make_train_step` gave.
      batches: start step -> iterator of numpy batches, this host's rows; the same steps always give the same batches.
      steps: number of updates in all.
      directory: of the checkpoints.
      writer: of metrics; values are means over the last `log_every` steps.
      mesh: where batches go.
      log_every, checkpoint_every: in steps.
      keep: the last checkpoints, so many.

    Raises:
      Preempted: SIGTERM came; the last step is saved.
      NonFiniteError: names the step, the losses and the parameters whose gradients are not finite.
    """
    names = list(trees.flatten(state.params))
    with preemption.watched(), Checkpoints(directory, keep) as checkpoints:
        state = checkpoints.restore(state)
        start = int(state.step)
        if start >= steps:
            return state
        if start:
            console.print(f"{name} goes on from step {start} of {steps}", markup=False)
        writer.rewind(name, start)
        stream = batches(start)
        window: list[dict] = []
        began = time.monotonic()
        note = ""
        with progress(name, steps, unit="step", start=start) as bar:
            for step in range(start + 1, steps + 1):
                batch = sharding.put_batch(next(stream), mesh)
                state, metrics = train_step(state, batch)
                window.append(metrics)
                if len(window) >= _AHEAD:
                    jax.block_until_ready(window[-_AHEAD])
                stop = preemption.asked()
                save = stop or step % checkpoint_every == 0 or step == steps
                if save or step % log_every == 0:
                    values = _drain(window, names, step)
                    photos = len(window) * len(batch["image"])  # over all hosts
                    values["photos_per_second"] = photos / (time.monotonic() - began)
                    note = f"{values['photos_per_second']:.0f} photos/s loss {values['loss']:.4f}"
                    if save:
                        values["checkpoint_seconds"] = checkpoints.save(state, values["loss"])
                    writer.scalars(name, step, values)
                    window, began = [], time.monotonic()
                bar.advance(1, note)
                if stop:
                    raise preemption.Preempted(f"{name} stopped by SIGTERM at step {step} of {steps}")
    return state


def _drain(window: list[dict], names: list[str], step: int) -> dict[str, float]:
    """Means of the steps since the last call, after a check that all are finite."""
    window = jax.device_get(window)
    for offset, metrics in enumerate(window):
        norms = metrics.pop("grad_norms")
        if not np.isfinite(metrics["loss"]) or not np.isfinite(norms).all():
            losses = [f"{k} = {float(v)}" for k, v in metrics.items() if not np.isfinite(v)]
            grads = [name for name, norm in zip(names, norms, strict=True) if not np.isfinite(norm)]
            at = step - len(window) + 1 + offset
            raise NonFiniteError(
                f"not finite at step {at}: {', '.join(losses) or 'no loss'}; gradients of {', '.join(grads[:10]) or 'none'}"
                f"{f' and {len(grads) - 10} more' if len(grads) > 10 else ''}. The last checkpoint is from before; "
                "with a lower learning rate (or optimizer.clip_norm, optimizer.warmup) it is another run: choose a new --workdir."
            )
    return {key: float(np.mean([m[key] for m in window])) for key in window[0]}
