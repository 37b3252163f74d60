"""Checkpoints of a phase: Orbax, asynchronous, the last ones and that of the least loss kept."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from auxseg_jax import sharding
from auxseg_jax.terminal import console
from auxseg_jax.training.step import TrainState


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _absolute(directory: epath.PathLike) -> epath.Path:
    path = epath.Path(directory).expanduser()
    return path if "://" in os.fspath(path) else path.resolve()


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
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            self._written(self._manager.wait_until_finished)
        self._manager.close()

    def save(self, state: TrainState, loss: float) -> float:
        """Starts writing `state`; returns once it is copied off the devices, with the seconds that took."""
        started = time.monotonic()
        self._written(lambda: self._manager.save(int(state.step), args=ocp.args.StandardSave(state), metrics={"loss": loss}))
        return time.monotonic() - started

    def _written(self, work: Callable[[], Any]) -> None:
        """Does what may fail because of this checkpoint or of the one that is still being written."""
        try:
            work()
        except Exception as error:  # of tensorstore, Orbax or the file system: there is no common class
            raise OSError(f"a checkpoint in {self._directory} cannot be written: {_first_line(error)}") from error

    def restore(self, state: TrainState) -> TrainState:
        """The last checkpoint that can be read, in the layout of `state`, or `state` itself if there is none at all.

        Broken ones are named, and removed.

        Raises:
          ValueError: there are checkpoints, and none can be read.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        broken = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
            except Exception as error:  # of tensorstore, Orbax or the file system: there is no common class
                console.print(f"the checkpoint {self._directory / str(step)} cannot be read: {_first_line(error)}", markup=False)
                broken.append(step)
                continue
            for step_of_broken in broken:
                self._manager.delete(step_of_broken)
            if broken:
                console.print(f"the one of step {step} is used", markup=False)
            return restored
        if broken:
            raise ValueError(f"no checkpoint in {self._directory} can be read; remove that folder to begin the phase again")
        return state


def save_params(directory: epath.PathLike, params: dict) -> None:
    """Writes the final parameters of a phase to `directory`, replacing what is there."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(_absolute(directory), params, force=True)


def load_params(directory: epath.PathLike, params: dict, mesh: Mesh) -> dict:
    """Reads what `save_params` wrote, in the shapes of `params` (arrays or shapes), onto the mesh."""
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, sharding.tree_sharding(params, mesh))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(_absolute(directory), target)
