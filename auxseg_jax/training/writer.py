"""What a run writes down while it goes: metrics.jsonl and TensorBoard events."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorboardX
from etils import epath

from auxseg_jax import trees
from auxseg_jax.devices import hosts
from auxseg_jax.files import storage


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl; none if it is absent.

    A line without its end, which was being written when a run was killed, is left out.
    """
    path = epath.Path(path)
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def write(path: epath.PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a metrics.jsonl as a whole."""
    storage.write_bytes(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())


class Writer:
    """Adds scalars to a file, one JSON object a line, and to TensorBoard events.

    With several processes the first writes.

    Args:
      metrics: the .jsonl file.
      tensorboard: folder of the events.
    """

    def __init__(self, metrics: epath.PathLike, tensorboard: epath.PathLike):
        self._path = epath.Path(metrics)
        self._writes, self._appends = hosts.is_first(), not storage.is_remote(metrics)
        if not self._writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._records = read(self._path)
        self._events = tensorboardX.SummaryWriter(str(tensorboard))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception) -> None:
        if self._writes:
            self._events.close()

    def rewind(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` after `step`.

        A run that was killed between checkpoints does those steps again.
        """
        if not self._writes:
            return
        self._records = [
            record for record in self._records if record["phase"] != phase or record["step"] <= step
        ]
        self._write_all()

    def scalars(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Writes scalars of one step of one phase."""
        if not self._writes:
            return
        values = {name: float(np.asarray(value)) for name, value in values.items()}
        self._records.append({"phase": phase, "step": step} | values)
        if self._appends:
            with self._path.open("a") as file:
                file.write(json.dumps(self._records[-1]) + "\n")
        else:  # Object stores write a file as a whole.
            self._write_all()
        for name, value in values.items():
            self._events.add_scalar(f"{phase}/{name}", value, step)

    def figures(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Adds the figures of a phase that scores to TensorBoard; what is no number is left out."""
        if not self._writes:
            return
        for name, value in trees.flatten(dict(values)).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._events.add_scalar(f"figures/{phase}/{name}", value, step)

    def image(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Adds a picture, uint8 RGB [H, W, 3], to TensorBoard."""
        if self._writes:
            self._events.add_image(name, pixels, step, dataformats="HWC")

    def _write_all(self) -> None:
        write(self._path, self._records)
