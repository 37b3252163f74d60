"""CAMs as the repositories of the field leave them, to be scored."""

import io
import zipfile
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax import pickles


def read(path: epath.PathLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(largest class uint8 [H, W], its score float [H, W] in 0..255) of a file of CAMs in 0..1, size of the photo.

    The file holds, as a pickled dict (.npy) or as arrays (.npz), with classes counted from 0 without background:

    - {class: CAM [H, W]}, as PSA writes; in .npz the names are "0", "1", ...
    - {"keys": classes [K], "high_res" or "cam": CAMs [K, H, W]}, as IRN writes

    Raises:
      ValueError: it holds something else.
    """
    path = epath.Path(path)
    data = path.read_bytes()
    try:
        content = _read_npz(data) if path.suffix == ".npz" else pickles.read_npy(data)
        if not isinstance(content, dict):
            raise ValueError("expected a dict of CAMs")
        if "keys" in content:
            maps = content["high_res"] if "high_res" in content else content.get("cam")
            found = dict(zip(np.asarray(content["keys"]).tolist(), maps, strict=True))
        else:
            found = {int(key): value for key, value in content.items()}
        classes = sorted(found)
        if not classes:
            raise ValueError("there is no CAM in it")
        if classes[0] < 0 or classes[-1] >= num_classes:
            raise ValueError(f"classes {classes[0]} to {classes[-1]}; there are {num_classes}, counted from 0")
        stack = np.stack([np.asarray(found[key], np.float32) for key in classes])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if stack.ndim != 3:
        raise ValueError(f"{path.name}: CAMs of shape {stack.shape[1:]}, expected [H, W]")
    return (np.array(classes) + 1)[stack.argmax(0)].astype(np.uint8), 255 * stack.max(0)


def _read_npz(data: bytes) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            return dict(content)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"not a readable .npz: {error}") from error
