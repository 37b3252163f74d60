"""The files that hold the pseudo labels of a split: <plane>/<id>.png, see `files.file_sets`.

The planes are those that a stage learns (`planes.LEARNED`): segmentation, indexed, 255 where there
is no label, and saliency, grey, 255 where salient. With the initial labels there are also the CAMs
they were made from: cam_class, indexed, the class of the largest CAM, and cam_score, grey, that
CAM. Any other tool can read them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from auxseg_jax.data import planes
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets, images

_LABELS = {plane.name: plane.kind == planes.LABELS for plane in planes.LEARNED}
_LABELS |= {"cam_class": True, "cam_score": False}


def encode(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Encodes one photo's maps, {name: uint8 [H, W]}, as files."""
    encoders = {True: images.encode_label_png, False: images.encode_grey_png}
    return {key(name): encoders[_LABELS[name]](array) for name, array in arrays.items()}


def read(
    files: file_sets.Read,
    name: str,
    maps: Sequence[str] = tuple(plane.name for plane in planes.LEARNED),
) -> dict[str, np.ndarray]:
    """Reads one photo's maps, {name: uint8 [H, W]}.

    Args:
      files: where.
      name: id of the photo.
      maps: which; without it those that a stage learns.

    Raises:
      UserError: a file is missing or damaged.
    """
    arrays = {}
    for kind, data in zip(maps, files(name, [key(kind) for kind in maps]), strict=True):
        try:
            arrays[kind] = images.decode_plane(data)
        except UserError as error:
            raise UserError(f"the pseudo label {kind} of {name} is damaged: {error}") from error
    return arrays


def key(name: str) -> str:
    """Returns the key of the files of a map, see `files.file_sets`."""
    return f"{name}/{{}}.png"
