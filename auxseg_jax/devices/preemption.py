"""SIGTERM, by which clusters announce that a machine goes away.

Training saves first; everything else ends at once. Several processes all stop together: in training
after the step, else after the pass over photos that they are in.
"""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143

_watched = _asked = False
_sync_points = itertools.count()


class Preempted(RuntimeError):
    """Training was asked to stop; what it had is saved."""


def install() -> None:
    """Handles SIGTERM from now on.

    With several processes JAX's own handler tells all of them, so that they stop at one step.
    """
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(*_) -> None:
    global _asked
    _asked = True
    if not _watched:  # There is nothing to save: every file that was written is whole.
        os.write(2, b"\nstopped by SIGTERM; the same command goes on\n")
        os._exit(EXIT_CODE)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Makes SIGTERM wait within the block, which must call `asked` often.

    Raises:
      Preempted: SIGTERM came after the last call of `asked`.
    """
    global _watched
    _watched = True
    try:
        yield
    finally:
        _watched = False
    if _asked:
        raise Preempted("stopped by SIGTERM")


def asked() -> bool:
    """Returns whether to save and stop now.

    The answer is the same in all processes, which must call this equally often.
    """
    if jax.process_count() == 1:
        return _asked
    # JAX wants a number that grows.
    return multihost_utils.reached_preemption_sync_point(next(_sync_points))
