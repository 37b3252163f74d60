"""The exception for mistakes that a user can mend, and the collector of faults."""

import contextlib
import contextvars
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

_SHOWN = 200
"""Lines that a message lists; the others are counted."""

_ALIKE = 3
"""Faults of one kind that a message lists in full; of the others it gives the names."""

_NAMES_SHOWN = 20

_collector: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "faults", default=None
)


class UserError(ValueError):
    """A config, an input file or a command that cannot be used. The message says what to do.

    The command line prints the message alone, as it does of the system's errors (OSError: a full
    disk, a file that may not be read). Every other exception is a bug and keeps its traceback.

    Attributes:
      faults: the single faults, if several are reported together.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()):
        super().__init__(message)
        self.faults = list(faults)


def fault(message: str) -> None:
    """Adds a fault to the innermost `collect` block; outside of any, raises it as a UserError."""
    faults = _collector.get()
    if faults is None:
        raise UserError(message)
    faults.append(message)


@contextlib.contextmanager
def collect(subject: object = None) -> Iterator[list[str]]:
    """Collects what `fault` is told within the block, so that a user sees every fault at once.

    Args:
      subject: what cannot be used if there is a fault, as the message names it. Without it the
        block raises nothing, and the caller reads the list.

    Yields:
      The faults so far.

    Raises:
      UserError: at the end of the block, if `subject` is given and there is a fault.
    """
    faults: list[str] = []
    token = _collector.set(faults)
    try:
        yield faults
    finally:
        _collector.reset(token)
    if subject is not None:
        raise_faults(subject, faults)


def raise_faults(subject: object, faults: Sequence[str], advice: str = "") -> None:
    """Raises a UserError that lists `faults`, if there are any, and ends with `advice`.

    Those of one kind, as of every photo of a folder, are listed together.
    """
    if not faults:
        return
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    listed = _listed(faults)
    lines = [f"{subject} cannot be used, {count}:", *listed[:_SHOWN]]
    if len(listed) > _SHOWN:
        lines.append(f"and {len(listed) - _SHOWN} more")
    lines += [advice] if advice else []
    raise UserError("\n  ".join(lines), faults)


def _listed(faults: Sequence[str]) -> list[str]:
    """Returns a line for each fault; where many are of one kind, one line names most of them.

    Of one kind are those that differ in numbers and in the name that they begin with alone.
    """
    kinds: dict[str, list[str]] = {}
    for message in faults:
        name, _, rest = message.partition(": ")
        kinds.setdefault(re.sub(r"\d+", "#", rest.replace(name, "")) or message, []).append(message)
    lines = []
    for alike in kinds.values():
        shown = _ALIKE if len(alike) > _ALIKE + 1 else len(alike)
        lines += alike[:shown]
        if others := alike[shown:]:
            names = [message.partition(": ")[0] for message in others[:_NAMES_SHOWN]]
            left = len(others) - len(names)
            more = f" and {left} more" if left else ""
            lines.append(f"the same of {len(others)} others: {', '.join(names)}{more}")
    return lines


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the known name that a misspelt one is most like, or "" if it is like none."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")
