"""What a person sees: progress on standard error, results on standard output."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
import rich.progress

_LOG_FILE_WIDTH = 120  # Terminals report their own width; files cannot.
_SECONDS_BETWEEN_LINES = 15.0

console = rich.console.Console(highlight=False, soft_wrap=True, stderr=True)
stdout = rich.console.Console(highlight=False, soft_wrap=True)
for _stream in (console, stdout):
    if not _stream.is_terminal:
        _stream.width = _LOG_FILE_WIDTH


def say(message: str) -> None:
    """Prints a line on standard error as it is; square brackets are not markup."""
    console.print(message, markup=False)


def first_line(error: BaseException) -> str:
    """Returns what an error says, without the pages that libraries add."""
    return str(error).partition("\n")[0]


class Progress:
    """The handle that `progress` gives: call `advance` after each piece of work."""

    def __init__(
        self, label: str, total: int, start: int, unit: str, bar: rich.progress.Progress | None
    ):
        self._label, self._total, self._unit = label, total, unit
        self._done = start
        self._bar = bar
        self._started = self._printed = time.monotonic()
        self._since = (start, self._started)
        self._task = bar.add_task(label, total=total, completed=start, rate="") if bar else None

    def advance(self, amount: int, note: str = "") -> None:
        """Counts `amount` pieces as done and shows the rate, the time left and `note`."""
        self._done += amount
        now = time.monotonic()
        first, began = self._since
        rate = (self._done - first) / max(now - began, 1e-9)
        if began == self._started:  # The first piece waits for the compiler.
            self._since = (self._done, now)
        text = f"{rate:.1f} {self._unit}/s {note}"
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=text)
            return
        due = now - self._printed > _SECONDS_BETWEEN_LINES
        if due or self._done >= self._total:
            self._printed = now
            left = (self._total - self._done) / max(rate, 1e-9)
            times = f"[{now - self._started:.0f}s, {left:.0f}s left]"
            say(f"{self._label} {self._done}/{self._total} {text} {times}")


@contextmanager
def progress(label: str, total: int, *, unit: str, start: int = 0) -> Iterator[Progress]:
    """Shows a progress bar on a terminal, and a line now and then in a log file.

    Args:
      label: what is going on.
      total: number of pieces of work.
      unit: name of one piece.
      start: pieces that were done before.
    """
    if not console.is_terminal:
        yield Progress(label, total, start, unit, None)
        return
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        "{task.fields[rate]}",
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as bar:
        yield Progress(label, total, start, unit, bar)
