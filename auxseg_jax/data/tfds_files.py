"""Lets TFDS build large data sets without TensorFlow.

It sorts up to 1 GB of records in memory, and more of them in files, which it opens with
`tf.io.gfile`. Python's own files do the same.
"""

import contextlib
import os
import resource
import types
from collections.abc import Iterator

from tensorflow_datasets.core import shuffle

_OPEN_FILES = 2 * shuffle.BUCKETS_NUMBER


class _Never(Exception):
    """Stands for an error of TensorFlow that Python's files do not raise."""


_STAND_IN = types.SimpleNamespace(
    io=types.SimpleNamespace(
        gfile=types.SimpleNamespace(GFile=open, exists=os.path.exists, remove=os.remove)
    ),
    errors=types.SimpleNamespace(ResourceExhaustedError=_Never),
)


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Within the block TFDS sorts records in Python's files, some 1000 of which it keeps open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(soft, _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard))
    replaced = shuffle.tf
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    shuffle.tf = _STAND_IN
    try:
        yield
    finally:
        shuffle.tf = replaced
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
