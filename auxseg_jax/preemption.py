"""SIGTERM, by which clusters announce that a machine goes: training saves first, everything else ends at once.

Of several processes all stop together: in training after the step, else after the pass over photos that they are in.
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
_calls = itertools.count()


class Preempted(RuntimeError):
    """Training was asked to stop; what it had is saved."""


def install() -> None:
    """Handles SIGTERM from now on. Of several processes JAX's own handler tells all of them, so that they stop at one step."""
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(*_) -> None:
    global _asked
    _asked = True
    if not _watched:  # nothing to save: what is written is whole
        os.write(2, b"\nstopped by SIGTERM; the same command goes on\n")
        os._exit(EXIT_CODE)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While this is open `asked` is called soon, and SIGTERM waits for that.

    Raises:
      Preempted: SIGTERM came, and nobody asked any more.
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
    """Whether to save and stop now; the same in all processes, which call this equally often."""
    if jax.process_count() == 1:
        return _asked
    return multihost_utils.reached_preemption_sync_point(next(_calls))  # it wants a number that grows
