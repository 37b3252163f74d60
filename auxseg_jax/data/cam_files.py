"""The files that hold CAMs on the feature grid: <id>.npy, of a photo's own classes."""

import io
from collections.abc import Mapping

import numpy as np

from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets
from auxseg_jax.files.terminal import first_line

KEY = "{}.npy"
"""Key of a photo's file, see `files.file_sets`."""


def encode(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Encodes one photo's CAM, {"cam": float32 [h, w, C], "labels": multi-hot [C]}, as a file."""
    content = io.BytesIO()
    np.save(content, arrays["cam"][..., arrays["labels"] > 0], allow_pickle=False)
    return {KEY: content.getvalue()}


def read(files: file_sets.Read, name: str) -> np.ndarray:
    """Reads one photo's CAM, float32 [h, w, K] of its K classes in order.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        (data,) = files(name, [KEY])
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:  # A UserError is a ValueError, too.
        raise UserError(
            f"the kept CAM of {name} cannot be read ({first_line(error)}); delete its folder, and "
            "the same command makes it again"
        ) from error
