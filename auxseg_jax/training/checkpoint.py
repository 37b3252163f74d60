"""Checkpoints of a phase, by Orbax and asynchronous."""

import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from auxseg_jax.devices import hosts
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import first_line, say
from auxseg_jax.training.fingerprint import differences, fingerprint
from auxseg_jax.training.step import TrainState

_CHECKSUMS = "checksums.json"


def _absolute(directory: epath.PathLike) -> epath.Path:
    path = epath.Path(directory).expanduser()
    return path if storage.is_remote(path) else path.resolve()


def _write(directory: epath.Path, work: Callable[[], Any]) -> None:
    """Runs `work`, which may fail because of an earlier checkpoint that is still being written."""
    try:
        work()
    except Exception as error:  # The errors of tensorstore, Orbax and file systems share no class.
        message = f"a checkpoint in {directory} cannot be written: {first_line(error)}"
        raise UserError(message) from error


class Checkpoints:
    """Saves and restores the `TrainState` of one phase. Use it as a context manager.

    Args:
      directory: folder of the checkpoints.
      keep: the last so many are kept, and the one of the least loss.
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
        hosts.by_first(self._set_aside_broken_metrics)
        # With a handler named, a checkpoint without content does not change what Orbax takes the
        # others for.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            self._directory, options=options, item_handlers=handler
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            _write(self._directory, self._manager.wait_until_finished)
            self._manager.close()
            return
        try:
            self._manager.close()
        except Exception as error:  # It is only printed, for another exception is on its way.
            say(f"a checkpoint in {self._directory} was not finished: {first_line(error)}")

    def save(self, state: TrainState, loss: float) -> float:
        """Starts writing `state`; returns the seconds until it was copied off the devices."""
        started = time.monotonic()
        step, arguments = int(state.step), ocp.args.StandardSave(state)
        metrics = {"loss": loss, "checksums": fingerprint(state)}
        _write(self._directory, lambda: self._manager.save(step, args=arguments, metrics=metrics))
        return time.monotonic() - started

    def restore(self, state: TrainState) -> TrainState:
        """Returns the last checkpoint that all processes can read, in the layout of `state`.

        Broken ones are named, and renamed to <step>.broken. Without any checkpoint it is `state`.

        Raises:
          UserError: there are checkpoints, and none can be read.
        """
        broken = []
        for step in self._common_steps():
            restored = self._read(step, state)
            readers = hosts.total(np.array(restored is not None, np.int64))
            if readers < hosts.share()[1]:
                broken.append(step)
                continue
            if broken:
                say(f"the one of step {step} is used")
                hosts.by_first(lambda: [self._set_aside(step) for step in broken])
                self._manager.reload()
            return restored
        if broken:
            raise UserError(
                f"no checkpoint in {self._directory} can be read; "
                "remove that folder to begin the phase again"
            )
        return state

    def _common_steps(self) -> list[int]:
        """Returns the steps that every process sees, the last first."""
        seen = hosts.concatenated(np.array(self._manager.all_steps(), np.int64))
        steps, counts = np.unique(seen, return_counts=True)
        return sorted((int(step) for step in steps[counts == hosts.share()[1]]), reverse=True)

    def _read(self, step: int, state: TrainState) -> TrainState | None:
        """Returns a checkpoint, or None, with the reason printed, if it cannot be read."""
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        path = self._directory / str(step)
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # See `_write`.
            say(f"the checkpoint {path} cannot be read: {first_line(error)}")
            return None
        metrics = self._manager.metrics(step) or {}
        if changed := differences(restored, metrics.get("checksums", {})):
            say(f"the checkpoint {path} is damaged: {changed[0]} is not what was written")
            return None
        return restored

    def _set_aside_broken_metrics(self) -> None:
        """Renames checkpoints whose loss cannot be read.

        Orbax reads the losses of all checkpoints when it begins, and gives up at a broken one.
        """
        if not self._directory.exists():
            return
        for path in self._directory.iterdir():
            metrics = path / "metrics" / "metrics"
            if path.name.isdecimal() and metrics.exists():
                try:
                    json.loads(metrics.read_text())
                except ValueError as error:
                    reason = f"{metrics}: {first_line(error)}"
                    say(f"the checkpoint {path} cannot be read: {reason}")
                    self._set_aside(int(path.name))

    def _set_aside(self, step: int) -> None:
        target = self._directory / f"{step}.broken"
        if target.exists():
            target.rmtree()
        (self._directory / str(step)).rename(target)


def save_params(directory: epath.PathLike, params: dict) -> None:
    """Writes the final parameters of a phase to `directory`, replacing what is there."""
    path = _absolute(directory)

    def save() -> None:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, params, force=True)
        checksums = fingerprint(params)
        hosts.by_first(lambda: storage.write_json(path / _CHECKSUMS, checksums))

    _write(path, save)


def load_params(directory: epath.PathLike, params: dict, mesh: Mesh) -> dict:
    """Reads what `save_params` wrote onto the mesh.

    Args:
      directory: the folder.
      params: arrays or shapes of the parameters.
      mesh: where they go.

    Raises:
      UserError: they cannot be read.
    """
    target = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        params,
        mesh_lib.tree_sharding(params, mesh),
    )
    path = _absolute(directory)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path, target)
    except Exception as error:  # See `_write`.
        message = f"the parameters {directory} cannot be read: {first_line(error)}"
        raise UserError(message) from error
    written = storage.read_json(path / _CHECKSUMS) if (path / _CHECKSUMS).exists() else {}
    if changed := differences(restored, written):
        raise UserError(
            f"the parameters {directory} are damaged: {changed[0]} is not what was written; "
            "delete the phase's folder, and the same command makes it again"
        )
    return restored
