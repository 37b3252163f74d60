"""What a run tells while it goes: metrics.jsonl, TensorBoard events, a progress bar or, without a terminal, lines."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import rich.console
import rich.progress
import tensorboardX
from etils import epath

from auxseg_jax import files

console = rich.console.Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 120  # of a log file; a terminal knows its own

_SECONDS_BETWEEN_LINES = 15.0


class Writer:
    """Appends scalars to <workdir>/metrics.jsonl, one JSON object a line, and to TensorBoard events beside it."""

    def __init__(self, workdir: epath.PathLike):
        path = epath.Path(workdir)
        path.mkdir(parents=True, exist_ok=True)
        self._path = path / "metrics.jsonl"
        self._file = self._path.open("a")
        self._events = tensorboardX.SummaryWriter(str(path / "tensorboard"))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._events.close()

    def rewind(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` after `step`: a run that was killed between checkpoints does those steps again."""
        self._file.close()
        lines = [line for line in self._path.read_text().splitlines() if _whole(line)]
        records = [json.loads(line) for line in lines]
        kept = [line for line, r in zip(lines, records, strict=True) if r["phase"] != phase or r["step"] <= step]
        files.write_bytes(self._path, "".join(line + "\n" for line in kept).encode())
        self._file = self._path.open("a")

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Writes scalars of one step of one phase."""
        values = {name: float(np.asarray(value)) for name, value in values.items()}
        self._file.write(json.dumps({"phase": phase, "step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{phase}/{name}", value, step)


def _whole(line: str) -> bool:
    """Whether the line was written to its end."""
    return line.endswith("}")


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
