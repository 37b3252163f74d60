"""A folder of small files, a few of each photo, stored in one of two ways.

"files"         each by itself, which every tool reads: <folder>/segmentation/<id>.png
"array_record"  in ArrayRecord files. For a bucket, or a file system that is slow with many files,
                a million objects become a few:
                <folder>/part-<i>-of-<n>-<k>.array_record   a record a photo, of process i of n
                <folder>/part-<i>-of-<n>.ids                a hash of the id of each of its records

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
_PART = r"part-(\d{5})-of-(\d{5})(-\d{5}\.array_record|\.ids)"
_RECORDS_A_FILE = 2**14
"""A read of ArrayRecord takes time in proportion to the records of its file: 5 us for 1000."""


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

    ArrayRecord files can be read when the block has ended without an exception, in all processes.
    Each photo is written once.

    Args:
      folder: where.
      form: "files" or "array_record".
      share: (index of this process, number of processes) that write into the folder.

    Raises:
      UserError: see `check_format`.
    """
    check_format(folder, form)
    folder = epath.Path(folder)
    if not storage.is_remote(folder):
        _remove_parts(folder, share, form)
    if form == "files":
        yield functools.partial(_write_files, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = _PartsWriter(folder / f"part-{share[0]:05d}-of-{share[1]:05d}")
    try:
        yield parts.write
    except BaseException:
        with contextlib.suppress(UserError):  # Another exception is on its way.
            parts.close()
        raise
    parts.close()
    parts.write_ids()


class _PartsWriter:
    """Writes records into one file after another."""

    def __init__(self, base: epath.Path):
        self._base, self._file = base, None
        self._hashes: list[bytes] = []
        self._lock = threading.Lock()

    def write(self, name: str, content: Mapping[str, bytes]) -> None:
        """Writes the files of one photo."""
        record = msgpack.packb({"id": name, "files": dict(content)})
        with self._lock:
            if len(self._hashes) % _RECORDS_A_FILE == 0:
                self.close()
                number = len(self._hashes) // _RECORDS_A_FILE
                path = f"{self._base}-{number:05d}{_RECORDS}"
                self._file = array_record_module.ArrayRecordWriter(
                    path, "group_size:1,uncompressed"
                )
            self._file.write(record)
            self._hashes.append(_hash(name))

    def close(self) -> None:
        """Finishes the last file."""
        if self._file is None or not self._file.is_open():
            return
        try:
            self._file.close()
        except RuntimeError as error:  # A full disk and the like.
            raise UserError(f"{self._base} cannot be written: {error}") from error

    def write_ids(self) -> None:
        """Writes what makes the files readable."""
        storage.write_bytes(f"{self._base}{_IDS}", b"".join(self._hashes))


def reader(folder: epath.PathLike) -> Read:
    """Returns a function that reads the files of a folder, however they are stored.

    It raises UserError where a file is missing.

    Raises:
      UserError: some of the folder's ArrayRecord files are missing or damaged.
    """
    folder = epath.Path(folder)
    parts = [] if storage.is_remote(folder) else _parts(folder)
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
        lists = [path for path in parts if path.suffix == _IDS]
        files = [path for path in parts if path.suffix == _RECORDS]
        numbers = {int(re.fullmatch(_PART, path.name)[2]) for path in parts}
        if numbers != {len(lists)}:
            raise UserError(
                f"{folder}: its ArrayRecord files are of {min(numbers)} processes, of which "
                f"{len(lists)} were done; delete the folder, and the same command makes it again"
            )
        try:
            ids = [np.frombuffer(path.read_bytes(), np.uint64) for path in lists]
            self._records = array_record_data_source.ArrayRecordDataSource(list(map(str, files)))
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
    """Returns the ArrayRecord files of a folder and their lists of ids, sorted."""
    paths = storage.matching(folder, "part-*-of-*")
    return [path for path in paths if re.fullmatch(_PART, path.name)]


def _remove_parts(folder: epath.Path, share: tuple[int, int], form: str) -> None:
    """Removes what a run that was stopped left: this process its own, the first also others'."""
    index, count = share
    for path in _parts(folder):
        owner, total = map(int, re.fullmatch(_PART, path.name).groups()[:2])
        is_stale = form == "files" or total != count
        if (is_stale and index == 0) or (not is_stale and owner == index):
            path.unlink(missing_ok=True)
