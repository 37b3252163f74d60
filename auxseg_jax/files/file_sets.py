"""A folder of small files, a few of each photo, stored in one of two ways.

"files"         each by itself, which every tool reads: <folder>/segmentation/<id>.png
"array_record"  in one ArrayRecord file for each process of the run. For a bucket, or a file system
                that is slow with many files, a million objects become a few:
                <folder>/part-<index>-of-<number>.array_record   a record a photo
                <folder>/part-<index>-of-<number>.ids.npy        a hash of the id of each record

A file is named by a key such as "segmentation/{}.png", where the photo's id takes the place of the
braces.
"""

import contextlib
import functools
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_data_source, array_record_module
from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.files import storage

Write = Callable[[str, Mapping[str, bytes]], None]
"""(id of a photo, {key: content of its file}); it may be called in threads."""

Read = Callable[[str, Sequence[str]], list[bytes]]
"""(id of a photo, keys) -> the content of these files."""

_RECORDS, _IDS = ".array_record", ".ids"
_PART = rf"part-\d{{5}}-of-(\d{{5}}){re.escape(_RECORDS)}"


def check_format(folder: epath.PathLike, form: str) -> None:
    """Raises UserError if files of this format cannot be written into a folder."""
    if form == "array_record" and storage.is_remote(folder):
        raise UserError(
            f"{folder}: ArrayRecord files need a file system, or a bucket that is mounted; "
            "--config.label_format=files does without"
        )


@contextlib.contextmanager
def writer(folder: epath.PathLike, form: str, share: tuple[int, int] = (0, 1)) -> Iterator[Write]:
    """Gives a function that writes files into a folder.

    ArrayRecord files appear when the block ends without an exception; of a process that is killed
    none is left. Each photo is written once.

    Args:
      folder: where.
      form: "files" or "array_record".
      share: (index of this process, number of processes) that write into the folder.

    Raises:
      UserError: see `check_format`.
    """
    check_format(folder, form)
    folder = epath.Path(folder)
    index, count = share
    if index == 0 and not storage.is_remote(folder):
        _remove_parts(folder, None if form == "files" else count)
    if form == "files":
        yield functools.partial(_write_files, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"part-{index:05d}-of-{count:05d}{_RECORDS}"
    temporary = folder / f".{part.name}"
    records = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    lock, hashes = threading.Lock(), []

    def write(name: str, content: Mapping[str, bytes]) -> None:
        record = msgpack.packb({"id": name, "files": dict(content)})
        with lock:
            records.write(record)
            hashes.append(_hash(name))

    try:
        yield write
        try:
            records.close()
        except RuntimeError as error:  # A full disk and the like.
            raise UserError(f"{part} cannot be written: {error}") from error
        storage.write_bytes(part.with_suffix(_IDS), b"".join(hashes))
        temporary.replace(part)
    finally:
        with contextlib.suppress(RuntimeError):  # Another exception is on its way.
            if records.is_open():
                records.close()
        temporary.unlink(missing_ok=True)


def reader(folder: epath.PathLike) -> Read:
    """Returns a function that reads the files of a folder, however they are stored.

    It raises UserError where a file is missing.

    Raises:
      UserError: some of the folder's ArrayRecord files are missing or damaged.
    """
    folder = epath.Path(folder)
    parts = _parts(folder)
    return _PartsReader(folder, parts).read if parts else functools.partial(_read_files, folder)


def _write_files(folder: epath.Path, name: str, content: Mapping[str, bytes]) -> None:
    for key, data in content.items():
        storage.write_bytes(folder / key.format(name), data)


def _read_files(folder: epath.Path, name: str, keys: Sequence[str]) -> list[bytes]:
    paths = [folder / key.format(name) for key in keys]
    try:
        return [path.read_bytes() for path in paths]
    except OSError as error:
        raise UserError(f"{folder}: a file of {name} cannot be read ({error})") from error


class _PartsReader:
    """Finds records by the hash of their id: 16 bytes of memory a photo, whatever its id."""

    def __init__(self, folder: epath.Path, parts: Sequence[epath.Path]):
        self._folder = folder
        try:
            ids = [np.frombuffer(p.with_suffix(_IDS).read_bytes(), np.uint64) for p in parts]
            self._records = array_record_data_source.ArrayRecordDataSource(list(map(str, parts)))
            count = len(self._records)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder}: its ArrayRecord files cannot be read ({error})") from error
        hashes = np.concatenate(ids)
        if len(hashes) != count:
            raise UserError(f"{folder}: {count} records, but {len(hashes)} ids; they are damaged")
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def read(self, name: str, keys: Sequence[str]) -> list[bytes]:
        """Reads files of one photo."""
        wanted = np.frombuffer(_hash(name), np.uint64)[0]
        first, end = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for place in range(first, end):
            record = msgpack.unpackb(self._records[int(self._order[place])])
            if record["id"] == name:
                return [self._file(record, key) for key in keys]
        raise UserError(f"{self._folder}: there is no record of {name}")

    def _file(self, record: dict[str, Any], key: str) -> bytes:
        if key not in record["files"]:
            raise UserError(f"{self._folder}: the record of {record['id']} has no {key}")
        return record["files"][key]


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _parts(folder: epath.Path) -> list[epath.Path]:
    """Returns the ArrayRecord files of a folder; none where its files are stored by themselves."""
    if storage.is_remote(folder):
        return []
    files = storage.matching(folder, f"part-*{_RECORDS}")
    found = {path: re.fullmatch(_PART, path.name) for path in files}
    parts = sorted(path for path, match in found.items() if match)
    numbers = {int(found[path][1]) for path in parts}
    if parts and numbers != {len(parts)}:
        raise UserError(
            f"{folder}: {len(parts)} of its ArrayRecord files are there, of {sorted(numbers)}"
        )
    return parts


def _remove_parts(folder: epath.Path, count: int | None) -> None:
    """Removes what a run that was stopped left, but for parts of `count`."""
    for path in storage.matching(folder, "part-*-of-*"):
        match = re.fullmatch(_PART, path.with_suffix(_RECORDS).name)
        if match and int(match[1]) != count:
            path.unlink()
