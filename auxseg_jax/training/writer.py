"""What a run writes down while it goes: metrics.jsonl and TensorBoard events."""

import json

import numpy as np
import tensorboardX
from etils import epath

from auxseg_jax import files


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
