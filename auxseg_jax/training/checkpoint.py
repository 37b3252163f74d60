"""Checkpoints of a phase: Orbax, asynchronous, the last ones and that of the least loss kept."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from auxseg_jax import hosts, sharding
from auxseg_jax.terminal import console, first_line
from auxseg_jax.training.step import TrainState


def _absolute(directory: epath.PathLike) -> epath.Path:
    path = epath.Path(directory).expanduser()
    return path if "://" in os.fspath(path) else path.resolve()


def _written(directory: epath.Path, work: Callable[[], Any]) -> None:
    """Does what may fail because of this checkpoint or of the one that is still being written."""
    try:
        work()
    except Exception as error:  # of tensorstore, Orbax or the file system: there is no common class
        raise OSError(f"a checkpoint in {directory} cannot be written: {first_line(error)}") from error


class Checkpoints:
    """Saves and restores the `TrainState` of one phase under `directory`. Use it as a context manager.

    Args:
      directory: of the phase.
      keep: the last so many are kept, and beside them the one of the least loss.
    """

    def __init__(self, directory: epath.PathLike, keep: int = 2):
        policies = ocp.checkpoint_managers
        best = policies.BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=1)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=lambda metrics: metrics["loss"],
            best_mode="min",
            create=True,
        )
        self._directory = _absolute(directory)
        hosts.by_first(self._put_aside_broken_metrics)
        # with a handler named, a checkpoint that lacks its content does not change what the others are taken for
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=ocp.StandardCheckpointHandler())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            _written(self._directory, self._manager.wait_until_finished)
            self._manager.close()
            return
        try:
            self._manager.close()
        except Exception as error:  # said, for the exception that is on its way must not be lost
            console.print(f"a checkpoint in {self._directory} was not finished: {first_line(error)}", markup=False)

    def save(self, state: TrainState, loss: float) -> float:
        """Starts writing `state`; returns once it is copied off the devices, with the seconds that took."""
        started = time.monotonic()
        save = ocp.args.StandardSave(state)
        _written(self._directory, lambda: self._manager.save(int(state.step), args=save, metrics={"loss": loss}))
        return time.monotonic() - started

    def restore(self, state: TrainState) -> TrainState:
        """The last checkpoint that can be read, by all processes, in the layout of `state`, or `state` itself if there is none at all.

        Broken ones are named, and put aside as <step>.broken.

        Raises:
          ValueError: there are checkpoints, and none can be read.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        found = hosts.concatenated(np.array(self._manager.all_steps(), np.int64))
        processes = hosts.share()[1]
        steps = [int(step) for step, seen in zip(*np.unique(found, return_counts=True), strict=True) if seen == processes]
        broken = []
        for step in sorted(steps, reverse=True):
            restored = None
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
            except Exception as error:  # of tensorstore, Orbax or the file system: there is no common class
                console.print(f"the checkpoint {self._directory / str(step)} cannot be read: {first_line(error)}", markup=False)
            if hosts.total(np.array(restored is not None, np.int64)) < processes:
                broken.append(step)
                continue
            if broken:
                console.print(f"the one of step {step} is used", markup=False)
                hosts.by_first(lambda: [self._put_aside(step) for step in broken])
                self._manager.reload()
            return restored
        if broken:
            raise ValueError(f"no checkpoint in {self._directory} can be read; remove that folder to begin the phase again")
        return state

    def _put_aside_broken_metrics(self) -> None:
        """Orbax reads the losses of all checkpoints when it begins, and gives up at one that it cannot read."""
        if not self._directory.exists():
            return
        for path in self._directory.iterdir():
            metrics = path / "metrics" / "metrics"
            if path.name.isdecimal() and metrics.exists():
                try:
                    json.loads(metrics.read_text())
                except ValueError as error:
                    console.print(f"the checkpoint {path} cannot be read: {metrics}: {first_line(error)}", markup=False)
                    self._put_aside(int(path.name))

    def _put_aside(self, step: int) -> None:
        aside = self._directory / f"{step}.broken"
        if aside.exists():
            aside.rmtree()
        (self._directory / str(step)).rename(aside)


def save_params(directory: epath.PathLike, params: dict) -> None:
    """Writes the final parameters of a phase to `directory`, replacing what is there."""
    path = _absolute(directory)

    def save() -> None:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, params, force=True)

    _written(path, save)


def load_params(directory: epath.PathLike, params: dict, mesh: Mesh) -> dict:
    """Reads what `save_params` wrote, in the shapes of `params` (arrays or shapes), onto the mesh."""
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, sharding.tree_sharding(params, mesh))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(_absolute(directory), target)
