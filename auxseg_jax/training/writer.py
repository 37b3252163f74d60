"""What a run writes down while it goes: metrics.jsonl and TensorBoard events."""

import json
import os

import numpy as np
import tensorboardX
from etils import epath

from auxseg_jax import files, hosts


class Writer:
    """Adds scalars to <workdir>/metrics.jsonl, one JSON object a line, and to TensorBoard events beside it. Of several processes the first writes."""

    def __init__(self, workdir: epath.PathLike):
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._writes, self._appends = hosts.is_first(), "://" not in os.fspath(workdir)
        if not self._writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._events = tensorboardX.SummaryWriter(str(self._path.parent / "tensorboard"))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception) -> None:
        if self._writes:
            self._events.close()

    def rewind(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` after `step`: a run that was killed between checkpoints does those steps again."""
        if not self._writes:
            return
        lines = [line for line in self._lines if line.endswith("}")]  # the others were not written to their end
        records = [json.loads(line) for line in lines]
        self._lines = [line for line, r in zip(lines, records, strict=True) if r["phase"] != phase or r["step"] <= step]
        self._write_all()

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Writes scalars of one step of one phase."""
        if not self._writes:
            return
        values = {name: float(np.asarray(value)) for name, value in values.items()}
        self._lines.append(json.dumps({"phase": phase, "step": step} | values))
        if self._appends:
            with self._path.open("a") as file:
                file.write(self._lines[-1] + "\n")
        else:  # objects are written as a whole
            self._write_all()
        for name, value in values.items():
            self._events.add_scalar(f"{phase}/{name}", value, step)

    def _write_all(self) -> None:
        files.write_bytes(self._path, "".join(line + "\n" for line in self._lines).encode())
