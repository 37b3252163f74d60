"""oracle.jsonl: a line for every time that the masks of a split are read in a run.

{"time": "2026-11-27T22:10:05+00:00", "phase": "cam/score", "split": "train", "photos": 315,
 "purpose": "score"}
"""

import datetime
import json
from typing import Any

from etils import epath

from auxseg_jax.devices import hosts
from auxseg_jax.files import storage


class Journal:
    """Writes the lines; of several processes the first does.

    Args:
      path: the file.

    Attributes:
      phase: the phase that is at work; "" beside the run.
    """

    def __init__(self, path: epath.PathLike):
        self.phase = ""
        self._path = epath.Path(path)

    def __call__(self, split: str, purpose: str, photos: int) -> None:
        """Adds a line."""
        if hosts.is_first():
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            line = {"time": now, "phase": self.phase, "split": split, "photos": photos}
            before = self._path.read_text() if self._path.exists() else ""
            text = before + json.dumps(line | {"purpose": purpose}) + "\n"
            storage.write_bytes(self._path, text.encode())


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a file; none if it is absent."""
    path = epath.Path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
