"""SIGTERM, by which clusters announce that a machine goes: training saves first, everything else ends at once."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143

_watched = _asked = False


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
    """While this is open `asked` is called soon, and SIGTERM waits for that."""
    global _watched
    _watched = True
    try:
        yield
    finally:
        _watched = False


def asked(step: int) -> bool:
    """Whether to save and stop after this step; the same in all processes."""
    return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else _asked
