"""Checkpoints of a phase: Orbax, asynchronous, the last one kept."""

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from auxseg_jax import sharding
from auxseg_jax.training.step import TrainState


def _manager(directory: epath.PathLike) -> ocp.CheckpointManager:
    path = epath.Path(directory).expanduser().resolve()
    return ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True))


class Checkpoints:
    """Saves and restores the `TrainState` of one phase under `directory`. Use it as a context manager."""

    def __init__(self, directory: epath.PathLike):
        self._manager = _manager(directory)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Starts writing `state`; returns once it is copied off the devices."""
        self._manager.save(int(state.step), args=ocp.args.StandardSave(state))

    def restore(self, state: TrainState) -> TrainState:
        """The last complete checkpoint in the layout of `state`, or `state` itself if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return state
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))


def save_params(directory: epath.PathLike, params: dict) -> None:
    """Writes the final parameters of a phase to `directory`, replacing what is there."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(epath.Path(directory).expanduser().resolve(), params, force=True)


def load_params(directory: epath.PathLike, params: dict, mesh: Mesh) -> dict:
    """Reads what `save_params` wrote, in the shapes of `params` (arrays or shapes), onto the mesh."""
    whole = sharding.replicated(mesh)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), params)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(epath.Path(directory).expanduser().resolve(), target)
