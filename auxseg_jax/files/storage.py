"""Bytes, JSON and locks, on local disks and object stores (`etils.epath`).

Writes are atomic: neither a reader nor a run that was killed ever sees half a file.
"""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from auxseg_jax.errors import UserError


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether `path` is on an object store, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes `data` to `path` in one step and makes the folders above it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # An object appears when its upload ends.
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: epath.PathLike, wait: bool) -> Iterator[None]:
    """Holds a file, made if need be, against other processes that lock it.

    The operating system keeps the lock, so it ends with the process, however that ends. Object
    stores have no locks: there the block simply runs.

    Raises:
      BlockingIOError: another process holds it, and `wait` is False.
    """
    path = epath.Path(path)
    if is_remote(path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON. NaN and infinity are refused, for they are not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: epath.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: it is not JSON; the message names the file.
    """
    try:
        return json.loads(epath.Path(path).read_text())
    except ValueError as error:  # Bad JSON, or bytes that are no text.
        raise UserError(f"{path} is not valid JSON ({error}); restore it from a copy") from error
