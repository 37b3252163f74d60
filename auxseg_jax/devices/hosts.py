"""Several processes of one run, usually one a host.

With one process every function here is the plain thing. With several, all processes call each
function, in the same order, and share the file system or object store that holds the workdir.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import say

_HEARTBEAT_SECONDS = 30
"""A process that is gone is noticed after this."""


def initialize(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Joins the processes of a run. Call it before anything else of JAX is used.

    Args:
      coordinator: host:port of the first process. None: JAX asks the cluster (TPU pod, SLURM,
        Kubernetes, MPI).
      count: number of processes.
      index: number of this process, from 0.

    Raises:
      UserError: nothing is named and there is no cluster that JAX knows, or the names are wrong.
    """
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(f"--coordinator={coordinator} is not host:port")
        if not 0 <= index < count:
            raise UserError(f"--process={index} of --processes={count}: they count from 0")
        say(f"process {index} waits for all {count} at {coordinator}")
    try:
        jax.distributed.initialize(
            coordinator, count, index, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        hint = "; without a cluster, name the processes: --coordinator, --processes, --process"
        raise UserError(
            f"the processes of the run do not come together: {error}{'' if coordinator else hint}"
        ) from error


def is_first() -> bool:
    """Returns whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def share() -> tuple[int, int]:
    """Returns (index of this process, number of processes)."""
    return jax.process_index(), jax.process_count()


def wait(name: str) -> None:
    """Returns when every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(flag: bool) -> bool:
    """Returns the flag of the first process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def total(values: Any) -> Any:
    """Sums a tree of numpy arrays or numbers over the processes."""
    if jax.process_count() == 1:
        return values
    # The numbers travel as bytes, because on devices 64 bits would become 32.
    return jax.tree.map(lambda x: sum(_from_all(np.asarray(x))), values)


def concatenated(array: np.ndarray) -> np.ndarray:
    """Puts the arrays [n, ...] of all processes one after the other; n may differ."""
    return np.concatenate(_from_all(array)) if jax.process_count() > 1 else array


def _from_all(array: np.ndarray) -> list[np.ndarray]:
    """Returns the arrays of all processes."""
    lengths = multihost_utils.process_allgather(np.array(array.nbytes, np.int32)).reshape(-1)
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    shape = (-1, *array.shape[1:]) if array.ndim else ()
    return [
        row[:length].view(array.dtype).reshape(shape)
        for row, length in zip(rows, lengths, strict=True)
    ]


def by_first(work: Callable[[], Any]) -> Any:
    """Runs `work` in the first process alone and returns when it is done.

    Returns:
      The result of `work` in the first process, None in the others.

    Raises:
      Exception: what `work` raised, in the first process; a UserError in the others.
    """
    result, error = None, None
    if is_first():
        try:
            result = work()
        except Exception as raised:  # The others are told before it is raised again.
            error = raised
    if not agreed(error is None):
        failed = UserError("the first process of the run could not do its part; it says why")
        raise error or failed
    return result


def first_alone(work: Callable[[], Any]) -> Any:
    """Runs `work` in the first process, then in the others, which find what it left.

    Raises:
      Exception: what `work` raised; or, where the first process failed, see `by_first`.
    """
    result = by_first(work)
    return result if is_first() else work()
