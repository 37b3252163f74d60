"""CAMs as the repositories of the field leave them, to be scored."""

import io
import lzma
import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.files import pickles, torch_file

_BROKEN_NPZ_ERRORS = (
    *(zipfile.BadZipFile, EOFError, KeyError, OSError, RuntimeError, NotImplementedError),
    *(zlib.error, lzma.LZMAError),
)


def read(
    path: epath.PathLike, num_classes: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of CAMs in 0..1.

    The file holds, as a pickled dict (.npy) or as arrays (.npz), with classes counted from 0
    without background:

    - {class: CAM [H, W]}, as PSA writes; in .npz the names are "0", "1", ...
    - {"keys": classes [K], "high_res" or "cam": CAMs [K, H, W]}, as IRN writes them, of numpy or of
    torch

    Without any class all is background.

    Args:
      path: the file.
      num_classes: C.
      size: (H, W) of the photo.

    Returns:
      (largest class uint8 [H, W], its score float [H, W] in 0..255).

    Raises:
      UserError: it holds something else, of another size, or beyond 0..1.
    """
    path = epath.Path(path)
    data = path.read_bytes()
    try:
        is_npz = path.suffix == ".npz"
        content = _read_npz(data) if is_npz else pickles.read_npy(data, torch_file.IN_PICKLES)
        classes, cams = _parse(content, num_classes)
        if not classes:
            return np.zeros(size, np.uint8), np.zeros(size)
        stack = np.stack([np.asarray(cam, np.float32) for cam in cams])
        if stack.shape[1:] != size:
            raise UserError(f"CAMs of shape {stack.shape[1:]}, the photo is {size}")
        if not ((stack >= 0) & (stack <= 1.001)).all():
            raise UserError("CAMs beyond 0..1, or not finite")
    except (ValueError, TypeError) as error:  # numpy's are about what the file holds.
        raise UserError(f"{path.name}: {error}") from error
    return (np.array(classes) + 1)[stack.argmax(0)].astype(np.uint8), 255 * stack.max(0)


def _parse(content: Any, num_classes: int) -> tuple[list[int], list[Any]]:
    """Returns classes and CAMs of a file's content."""
    if not isinstance(content, dict):
        raise UserError("expected a dict of CAMs")
    if "keys" in content:
        keys = np.asarray(content["keys"]).tolist()
        cams = content.get("high_res", content.get("cam"))
        cams = [] if cams is None else list(cams)
    else:
        keys, cams = list(content), list(content.values())
    classes = [int(key) for key in keys]
    are_whole = [str(index) for index in classes] == [str(key) for key in keys]
    if not are_whole or len(classes) != len(cams) or len(set(classes)) < len(classes):
        raise UserError(f"classes {keys} of {len(cams)} CAMs")
    if classes and (min(classes) < 0 or max(classes) >= num_classes):
        raise UserError(
            f"classes {min(classes)} to {max(classes)}; there are {num_classes}, counted from 0"
        )
    return classes, cams


def _read_npz(data: bytes) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            return dict(content)
    except _BROKEN_NPZ_ERRORS as error:
        raise UserError(f"not a readable .npz: {error}") from error
