"""The folder that holds the pseudo labels of a split: <folder>/<plane>/<id>.png.

The planes are those that a stage learns (`planes.LEARNED`): segmentation, indexed, 255 where there
is no label, and saliency, grey, 255 where salient. Any other tool can read them.
"""

import numpy as np
from etils import epath

from auxseg_jax.data import planes
from auxseg_jax.files import images


def path_of(folder: epath.PathLike, plane: str, name: str) -> epath.Path:
    """Returns where one plane of one photo lies."""
    return epath.Path(folder) / plane / f"{name}.png"


def write(folder: epath.PathLike, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes one photo's pseudo labels.

    Args:
      folder: the set of pseudo labels.
      name: id of the photo.
      arrays: {plane: uint8 [H, W]} of every learned plane.
    """
    for plane in planes.LEARNED:
        labels = plane.kind == planes.LABELS
        write_png = images.write_label_png if labels else images.write_grey_png
        write_png(path_of(folder, plane.name, name), arrays[plane.name])


def read(folder: epath.PathLike, name: str) -> dict[str, np.ndarray]:
    """Reads one photo's pseudo labels, {plane: uint8 [H, W]}."""
    return {
        plane.name: images.read_plane(path_of(folder, plane.name, name)) for plane in planes.LEARNED
    }
