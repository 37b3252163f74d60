"""CAMs as the repositories of the field leave them, to be scored."""

import io
import lzma
import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax import pickles, torch_file


def read(path: epath.PathLike, num_classes: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(largest class uint8 [H, W], its score float [H, W] in 0..255) of a file of CAMs in 0..1.

    The file holds, as a pickled dict (.npy) or as arrays (.npz), with classes counted from 0 without background:

    - {class: CAM [H, W]}, as PSA writes; in .npz the names are "0", "1", ...
    - {"keys": classes [K], "high_res" or "cam": CAMs [K, H, W]}, as IRN writes them, of numpy or of torch

    Without any class all is background.

    Args:
      path: the file.
      num_classes: C.
      size: (H, W) of the photo.

    Raises:
      ValueError: it holds something else, of another size, or beyond 0..1.
    """
    path = epath.Path(path)
    data = path.read_bytes()
    try:
        content = _read_npz(data) if path.suffix == ".npz" else pickles.read_npy(data, torch_file.IN_PICKLES)
        if not isinstance(content, dict):
            raise ValueError("expected a dict of CAMs")
        if "keys" in content:
            keys, maps = np.asarray(content["keys"]).tolist(), content.get("high_res", content.get("cam"))
            maps = [] if maps is None else list(maps)
        else:
            keys, maps = list(content), list(content.values())
        classes = [int(key) for key in keys]
        whole = [str(index) for index in classes] == [str(key) for key in keys]
        if not whole or len(classes) != len(maps) or len(set(classes)) < len(classes):
            raise ValueError(f"classes {keys} of {len(maps)} CAMs")
        if not classes:
            return np.zeros(size, np.uint8), np.zeros(size)
        if min(classes) < 0 or max(classes) >= num_classes:
            raise ValueError(f"classes {min(classes)} to {max(classes)}; there are {num_classes}, counted from 0")
        stack = np.stack([np.asarray(plane, np.float32) for plane in maps])
        if stack.shape[1:] != size:
            raise ValueError(f"CAMs of shape {stack.shape[1:]}, the photo is {size}")
        if not ((stack >= 0) & (stack <= 1.001)).all():
            raise ValueError("CAMs beyond 0..1, or not finite")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return (np.array(classes) + 1)[stack.argmax(0)].astype(np.uint8), 255 * stack.max(0)


def _read_npz(data: bytes) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            return dict(content)
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"not a readable .npz: {error}") from error
