"""What a person sees: how things go, on standard error (a progress bar or, without a terminal, lines), and what came of it, on standard output."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
import rich.progress

console = rich.console.Console(highlight=False, soft_wrap=True, stderr=True)
stdout = rich.console.Console(highlight=False, soft_wrap=True)
for _one in (console, stdout):
    if not _one.is_terminal:
        _one.width = 120  # of a log file; a terminal knows its own

_SECONDS_BETWEEN_LINES = 15.0


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that libraries add."""
    return str(error).partition("\n")[0]


class Progress:
    """Handle that `progress` gives: call `advance` after each piece of work."""

    def __init__(self, label: str, total: int, start: int, unit: str, bar: rich.progress.Progress | None):
        self._label, self._total, self._done, self._first, self._unit = label, total, start, start, unit
        self._bar, self._started, self._printed = bar, time.monotonic(), time.monotonic()
        self._task = bar.add_task(label, total=total, completed=start, rate="") if bar else None

    def advance(self, amount: int, note: str = "") -> None:
        """Counts `amount` pieces as done and shows the rate, the time left and `note`."""
        self._done += amount
        elapsed = time.monotonic() - self._started
        rate = (self._done - self._first) / max(elapsed, 1e-9)
        text = f"{rate:.1f} {self._unit}/s {note}"
        if self._bar:
            self._bar.update(self._task, completed=self._done, rate=text)
        elif time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._printed = time.monotonic()
            left = (self._total - self._done) / max(rate, 1e-9)
            console.print(f"{self._label} {self._done}/{self._total} {text} [{elapsed:.0f}s, {left:.0f}s left]", markup=False)


@contextmanager
def progress(label: str, total: int, *, unit: str, start: int = 0) -> Iterator[Progress]:
    """A progress bar on a terminal, a line now and then elsewhere. `total` and `start` count `unit`s."""
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
