"""A digest of a set of small files, the same in any order and however many processes write them."""

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from auxseg_jax.files.file_sets import Read

_WORDS = 8  # Of SHA-256, 32 bits each.


class SetDigest:
    """The sum of the hashes of all files.

    Attributes:
      sums: int64 [8]; those of several processes add up.
    """

    def __init__(self):
        self.sums = np.zeros(_WORDS, np.int64)
        self._lock = threading.Lock()

    def add(self, name: str, content: Mapping[str, bytes]) -> None:
        """Adds the files of one photo, {key: content}; it may be called in threads."""
        for key, data in content.items():
            head = f"{len(name)} {name} {key} ".encode()
            words = np.frombuffer(hashlib.sha256(head + data).digest(), ">u4")
            with self._lock:
                self.sums += words.astype(np.int64)


def text_of(sums: np.ndarray) -> str:
    """Returns the digest of all files of which `sums` is the sum."""
    return (sums % 2**32).astype(">u4").tobytes().hex()


def digest(files: Read, names: Iterable[str], keys: Sequence[str]) -> str:
    """Returns the digest of a set that is there.

    Args:
      files: the set.
      names: ids of its photos.
      keys: keys of a photo's files.

    Raises:
      UserError: a file is missing or damaged.
    """
    found = SetDigest()
    for name in names:
        found.add(name, dict(zip(keys, files(name, keys), strict=True)))
    return text_of(found.sums)
