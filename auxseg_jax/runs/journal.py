"""oracle.jsonl: a line for every time that the masks of a split are read in a run.

{"time": "2026-11-27T22:10:05+00:00", "phase": "cam/score", "split": "train", "photos": 315,
 "purpose": "score"}
"""

import dataclasses
import datetime
import json
from typing import Any

import ml_collections
from etils import epath

from auxseg_jax.data import dataset
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.runs.workdir import Workdir

_FIELDS = ("time", "phase", "split", "photos", "purpose")


class Journal:
    """Writes the lines.

    Args:
      path: the file.
      writes: whether this process does; of several processes of a run the first.

    Attributes:
      phase: the phase that is at work; "" beside the run.
    """

    def __init__(self, path: epath.PathLike, writes: bool = True):
        self.phase = ""
        self._path, self._writes = epath.Path(path), writes

    def __call__(self, split: str, purpose: str, photos: int) -> None:
        """Adds a line."""
        if not self._writes:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = {"time": now, "phase": self.phase, "split": split, "photos": photos}
        text = json.dumps(line | {"purpose": purpose}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if storage.is_remote(self._path):  # Object stores write a file as a whole.
            before = self._path.read_text() if self._path.exists() else ""
            storage.write_bytes(self._path, (before + text).encode())
        else:
            with self._path.open("a") as file:  # Another process may add a line, too.
                file.write(text)


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a file; none if it is absent.

    Raises:
      UserError: a line is damaged.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            found.append({name: str(line[name]) for name in _FIELDS})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: line {number} is damaged ({type(error).__name__}), so what was read then "
                "is not known; restore it from a copy, or run again in a new workdir"
            ) from error
    return found


def open_data(folder: Workdir, config: ml_collections.ConfigDict) -> dataset.Dataset | None:
    """Opens the data that a run was begun with, beside the run. Reads of masks leave their lines.

    Args:
      folder: its workdir.
      config: its config.

    Returns:
      The data set; None if its prepared copy is gone.
    """
    data = dataset.open_copy(folder.data_state(), **config.data)
    return data and dataclasses.replace(data, journal=Journal(folder.oracle))
