"""The folder that holds CAMs on the feature grid: <folder>/<id>.npy, of a photo's own classes."""

import io

import numpy as np
from etils import epath

from auxseg_jax.files import storage


def write(folder: epath.PathLike, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes one photo's CAM.

    Args:
      folder: where.
      name: id of the photo.
      arrays: {"cam": float32 [h, w, C], "labels": multi-hot [C]}.
    """
    content = io.BytesIO()
    np.save(content, arrays["cam"][..., arrays["labels"] > 0], allow_pickle=False)
    storage.write_bytes(epath.Path(folder) / f"{name}.npy", content.getvalue())


def read(folder: epath.PathLike, name: str) -> np.ndarray:
    """Reads one photo's CAM, float32 [h, w, K] of its K classes in order."""
    data = (epath.Path(folder) / f"{name}.npy").read_bytes()
    return np.load(io.BytesIO(data), allow_pickle=False)
