"""The folder that holds CAMs on the feature grid: <folder>/<id>.npy, of a photo's own classes."""

import io

import numpy as np
from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import first_line


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
    """Reads one photo's CAM, float32 [h, w, K] of its K classes in order.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = epath.Path(folder) / f"{name}.npy"
    try:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        advice = "delete its folder, and the same command makes it again"
        raise UserError(f"{path} cannot be read ({first_line(error)}); {advice}") from error
