"""The maps that belong to a photo, pixel by pixel: one entry each, and all else follows from it.

`PLANES` is read by the config (a field `data.<name>` for each that a data set may bring), the
listings, the TFDS builders, the loader, the passes over photos and the compile command. To add a
plane, add an entry; the function that uses it then finds it in its batch under its name.
"""

import dataclasses
import io
import zipfile
from collections.abc import Sequence

import cv2
import numpy as np

from auxseg_jax.errors import UserError
from auxseg_jax.files import images
from auxseg_jax.pixel_labels import IGNORE

NO_FOLDER = "none"
"""Value of `data.<name>` for a data set that does not bring the plane."""

GREY, LABELS, SEGMENTS = "grey", "labels", "segments"

_DTYPES = {GREY: np.float32, LABELS: np.int32, SEGMENTS: np.bool_}


@dataclasses.dataclass(frozen=True)
class Plane:
    """One map of a photo.

    Attributes:
      name: its key in examples and batches, and its folder in a set of pseudo labels.
      help: a sentence for the configuration reference.
      kind: GREY, LABELS or SEGMENTS.
        GREY: 8-bit grey <id>.png; float32 [H, W] in 0..1 in a batch; several folders are averaged.
        LABELS: indexed or grey <id>.png; int32 [H, W] class indices in a batch.
        SEGMENTS: any number of overlapping masks, <id>.npz with the array "segments", bool
        [K, H, W]; bool [limit, H, W] in a batch, the largest first, False where there are fewer.
      given: whether a data set may bring it with its photos.
      learned: whether pseudo labels hold it, for a stage to learn; not for SEGMENTS.
      padding: value of padded pixels in a training crop.
      limit: segments of a photo that are used.
      advice: how a user gets its files, for a message where they are absent.
    """

    name: str
    help: str
    kind: str = GREY
    given: bool = False
    learned: bool = False
    padding: float = 0.0
    limit: int = 64
    advice: str = ""

    def __post_init__(self):
        if self.learned and self.kind == SEGMENTS:
            raise ValueError(f"{self.name}: a stage cannot learn segments")

    @property
    def suffix(self) -> str:
        """Ending of its files."""
        return ".npz" if self.kind == SEGMENTS else ".png"

    @property
    def dtype(self) -> type:
        """Type of its numbers in a batch."""
        return _DTYPES[self.kind]

    @property
    def interpolation(self) -> int:
        """How a crop is rescaled, as a constant of OpenCV."""
        return cv2.INTER_LINEAR if self.kind == GREY else cv2.INTER_NEAREST

    def batch_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one photo's plane in a batch."""
        return (self.limit, height, width) if self.kind == SEGMENTS else (height, width)

    def decode_file(self, data: bytes) -> np.ndarray:
        """Reads the content of one file, as uint8 [H, W] or bool [K, H, W].

        Raises:
          UserError: it is another kind of file.
        """
        if self.kind == SEGMENTS:
            return _decode_segments(data)
        return images.decode_plane(data, grey=self.kind == GREY)

    def merge(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Averages the grey planes of several folders; other planes have one folder."""
        return arrays[0] if len(arrays) == 1 else np.round(np.mean(arrays, 0)).astype(np.uint8)

    def shrink(self, plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Scales what `decode_file` gave down to (H, W), as its photo is."""
        mode = cv2.INTER_AREA if self.kind == GREY else cv2.INTER_NEAREST_EXACT
        if self.kind != SEGMENTS:
            return cv2.resize(plane, size[::-1], interpolation=mode)
        layers = [cv2.resize(x.astype(np.uint8), size[::-1], interpolation=mode) for x in plane]
        return np.stack(layers).astype(bool)

    def store(self, plane: np.ndarray) -> bytes:
        """Encodes what `decode_file` gave as a PNG.

        8 segments share a byte, and each 8 lie below the last.
        """
        if self.kind == SEGMENTS:
            order = np.argsort(-plane.sum((1, 2)), kind="stable")[: self.limit]
            plane = np.packbits(plane[order], axis=0).reshape(-1, plane.shape[2])
        return images.encode_png(plane)

    def scale(self, plane: np.ndarray) -> np.ndarray:
        """Turns stored greys 0..255 into float32 0..1; other planes stay as they are."""
        return plane.astype(np.float32) / 255 if self.kind == GREY else plane

    def load(self, stored: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Turns what `store` encoded, decoded again, into the numbers of a batch.

        Args:
          stored: uint8 [H, W]; of K segments [ceil(K / 8) * H, W].
          size: (H, W) of the photo.
        """
        if self.kind != SEGMENTS:
            return self.scale(stored)
        present = np.unpackbits(stored.reshape(-1, *size), axis=0)[: self.limit]
        segments = np.zeros(self.batch_shape(*size), bool)
        segments[: len(present)] = present
        return segments


def _decode_segments(data: bytes) -> np.ndarray:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            segments = content["segments"]
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise UserError(f"expected a .npz with the array 'segments' ({error})") from error
    if segments.ndim != 3 or segments.dtype != np.bool_ or not len(segments):
        raise UserError(f"expected bool [K, H, W], got {segments.dtype} {segments.shape}")
    return segments


PLANES: dict[str, Plane] = {
    plane.name: plane
    for plane in (
        Plane(
            "saliency",
            "Folders of saliency maps, relative to `data.root`, separated by commas; several are "
            "averaged. `none`: the largest CAM of the photo's classes stands for saliency.",
            given=True,
            learned=True,
            padding=-1.0,  # The saliency loss counts values from 0 on.
            advice="`auxseg saliency` makes them",
        ),
        Plane(
            "segmentation",
            "Pseudo labels of the classes.",
            LABELS,
            learned=True,
            padding=IGNORE,
        ),
    )
}
GIVEN = tuple(plane for plane in PLANES.values() if plane.given)
LEARNED = tuple(plane for plane in PLANES.values() if plane.learned)
