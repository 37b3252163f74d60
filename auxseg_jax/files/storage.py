"""Bytes, JSON and locks, on local disks and object stores (`etils.epath`).

Writes are atomic: neither a reader nor a run that was killed ever sees half a file.
"""

import codecs
import collections
import contextlib
import fcntl
import fnmatch
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.errors import UserError


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether `path` is on an object store, such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def matching(folder: epath.PathLike, pattern: str) -> list[epath.Path]:
    """Returns what lies below a folder and matches a pattern, such as "*/params", sorted.

    The name of the folder itself, which a user chose, is never read as a pattern.
    """
    folder, (first, _, rest) = epath.Path(folder), pattern.partition("/")
    if not folder.is_dir():
        return []
    entries = sorted(path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, first))
    return [path for entry in entries for path in matching(entry, rest)] if rest else entries


def check_space(folder: epath.PathLike, size: int, what: str) -> None:
    """Raises UserError if the disk of a folder, which need not exist, has no room for `size` bytes.

    Args:
      folder: where.
      size: bytes that will be written.
      what: what they are, for the message.
    """
    if is_remote(folder):
        return
    existing = os.path.abspath(folder)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    if free < size:
        raise UserError(
            f"{folder} needs {size / 2**30:.2g} GiB ({what}), and {free / 2**30:.2g} GiB are free"
        )


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes `data` to `path` in one step and makes the folders above it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # An object appears when its upload ends.
        path.write_bytes(data)
        return
    # A name beside the file's own, and no longer: file systems allow 255 bytes.
    temporary = path.parent / f".{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:  # It names the file that a user knows.
        if error.errno is None:
            raise OSError(f"{path} cannot be written: {error}") from error
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
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


def read_text(path: epath.PathLike) -> str:
    """Reads text in UTF-8, or in UTF-16 if it says so by a byte order mark.

    Raises:
      UserError: it is in another encoding, or no text.
    """
    data = epath.Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"line {line} is not in UTF-8; if it is text, save it in that encoding (of a "
            "spreadsheet: 'CSV UTF-8'; of Windows-1252: iconv -f cp1252 -t utf-8)"
        ) from error
    if "\0" in text:
        raise UserError("it holds zero bytes, so it is no text")
    return text


def write_npz(path: epath.PathLike, arrays: Mapping[str, Any], compress: bool = False) -> None:
    """Writes named arrays as .npz."""
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def open_npz(path: epath.PathLike) -> Iterator[Mapping[str, Any]]:
    """Gives the arrays of a .npz by name; each is read when it is asked for. Nothing is unpickled.

    NumPy's errors for damaged files go through: only the caller knows what a user should do.
    """
    data = io.BytesIO(epath.Path(path).read_bytes())
    with np.load(data, allow_pickle=False) as arrays:
        yield arrays


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON. NaN and infinity are refused, for they are not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def json_like(value: Any) -> Any:
    """Returns `value` as JSON would give it back: tuples are lists, keys are text."""
    return json.loads(json.dumps(value))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of these pairs: an `object_pairs_hook` for what people write.

    Raises:
      UserError: a key is there twice; JSON would keep the last one without a word.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        (key, _), *_ = collections.Counter(key for key, _ in pairs).most_common(1)
        raise UserError(f"{key!r} is there twice")
    return result


def read_json(path: epath.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: it is not JSON; the message names the file.
    """
    try:
        return json.loads(epath.Path(path).read_text())
    except (ValueError, RecursionError) as error:  # Bad JSON, or bytes that are no text.
        raise UserError(f"{path} is not valid JSON ({error}); restore it from a copy") from error
