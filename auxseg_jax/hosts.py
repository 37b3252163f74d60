"""Several processes of one run, usually one a host: who is the first, waiting for each other, sums over all.

Everything here is the plain thing when there is one process. All processes call each function, in the same order. They share a file system
(or an object store) where the workdir is.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from auxseg_jax.terminal import console

_HEARTBEAT_SECONDS = 30  # a process that is gone is noticed after this


def initialize(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Joins the processes of a run, before anything else of JAX is used.

    Args:
      coordinator: host:port of the first process; None: JAX asks the cluster (TPU pod, SLURM, Kubernetes, MPI).
      count, index: of the processes.

    Raises:
      ValueError: nothing is named and there is no cluster that JAX knows.
    """
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"--coordinator={coordinator} is not host:port")
        if not 0 <= index < count:
            raise ValueError(f"--process={index} of --processes={count}: they count from 0")
        console.print(f"process {index} waits for all {count} at {coordinator}", markup=False)
    try:
        jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        hint = "" if coordinator else "; where there is no cluster, name the processes: --coordinator, --processes, --process"
        raise ValueError(f"the processes of the run do not come together: {error}{hint}") from error


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def share() -> tuple[int, int]:
    """(index of this process, their number)."""
    return jax.process_index(), jax.process_count()


def wait(name: str) -> None:
    """Returns when every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(flag: bool) -> bool:
    """What the first process says."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag))) if jax.process_count() > 1 else flag


def total(values: Any) -> Any:
    """Tree of numpy arrays or numbers, summed over the processes."""
    if jax.process_count() == 1:
        return values
    # as bytes: on devices 64 bits would become 32
    return jax.tree.map(lambda x: sum(_everyones(np.asarray(x))), values)


def concatenated(array: np.ndarray) -> np.ndarray:
    """The arrays [n, ...] of all processes, one after the other; n may differ."""
    return np.concatenate(_everyones(array)) if jax.process_count() > 1 else array


def _everyones(array: np.ndarray) -> list[np.ndarray]:
    lengths = multihost_utils.process_allgather(np.array(array.nbytes, np.int32)).reshape(-1)
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    shape = array.shape[1:] if array.ndim else ()
    return [row[:n].view(array.dtype).reshape((-1, *shape) if array.ndim else ()) for row, n in zip(rows, lengths, strict=True)]


def by_first(work: Callable[[], Any]) -> Any:
    """What work() gives, by the first process alone, and None in the others, when it is done; an error of the first is raised by all.

    Raises:
      ValueError: the first process failed; or there, what `work` raised.
    """
    result, error = None, None
    if is_first():
        try:
            result = work()
        except Exception as raised:  # told to the others before it is raised
            error = raised
    if not agreed(error is None):
        raise error or ValueError("the first process of the run could not do its part; it says why")
    return result


def first_alone(work: Callable[[], Any]) -> Any:
    """work() by the first process, then by the others, which find what it left; errors as of `by_first`, and those of `work` here."""
    result = by_first(work)
    return result if is_first() else work()
