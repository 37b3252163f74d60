"""Reading and writing files, local or on object stores (`etils.epath`): JSON, label PNGs, saliency PNGs.

Writes are atomic: a reader, or a run that was killed, never sees half a file.
"""

import contextlib
import fcntl
import io
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

IGNORE = 255
"""Value of a pixel without a label in every segmentation map."""

DONE = "DONE.json"
"""Written last in the folder of a finished phase; what a resumed run looks at."""


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes `data` to `path` in one step, making the folders above it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(path):  # an object appears when its upload ends
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: epath.PathLike, wait: bool) -> Iterator[None]:
    """Holds a file, made if need be, against other processes that lock it. The lock is the system's: it goes with the process, however that ends.

    Raises:
      BlockingIOError: another one holds it, and not `wait`.
    """
    path = epath.Path(path)
    if "://" in os.fspath(path):  # object stores have no locks
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused (they are not JSON)."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: epath.PathLike) -> Any:
    """Reads a JSON file; the error of a broken one names it."""
    try:
        return json.loads(epath.Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Delete it, or restore it from a copy.") from error


def palette(count: int = 256) -> np.ndarray:
    """The PASCAL VOC colour map, uint8 [count, 3]: the bits of the index spread over R, G and B, highest bit first."""
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def write_label_png(path: epath.PathLike, labels: np.ndarray) -> None:
    """Writes uint8 [H, W] class indices (255 = ignore) as an indexed PNG with the VOC palette."""
    image = Image.fromarray(_uint8_plane(labels))
    image.putpalette(palette().tobytes())  # turns the grey image into mode "P"; the pixels stay the indices
    _write_png(path, image)


def write_grey_png(path: epath.PathLike, values: np.ndarray) -> None:
    """Writes uint8 [H, W] as an 8-bit grey PNG (mode "L": Pillow >= 10 saves mode "P" without a palette as all black)."""
    _write_png(path, Image.fromarray(_uint8_plane(values)))


def write_jpeg(path: epath.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3] as a JPEG, to look at."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    write_bytes(path, buffer.getvalue())


def write_pseudo_labels(directory: epath.PathLike, name: str, segmentation: np.ndarray, saliency: np.ndarray) -> None:
    """Writes one photo's pseudo labels: <directory>/segmentation/<name>.png (255 ignore) and saliency/<name>.png (255 salient)."""
    write_label_png(epath.Path(directory) / "segmentation" / f"{name}.png", segmentation)
    write_grey_png(epath.Path(directory) / "saliency" / f"{name}.png", saliency)


def decode_plane(data: bytes, grey: bool = False) -> np.ndarray:
    """Decodes an indexed or grey 8-bit PNG to its raw uint8 [H, W] values. Anything else raises ValueError.

    With `grey` the values are greys: an indexed PNG must have the palette under which they are.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if grey and image.mode == "P" and not np.array_equal(image.convert("L"), image):
                raise ValueError("expected greys, found indices of a palette; save it as 8-bit grey (mode L)")
            if image.mode not in ("L", "P"):
                raise ValueError(f"expected an 8-bit grey or indexed PNG (mode L or P), found mode {image.mode}")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable PNG ({error})") from error


def read_plane(path: epath.PathLike) -> np.ndarray:
    """`decode_plane` of a file; errors name it."""
    try:
        return decode_plane(epath.Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a label map: {error}") from error


def _uint8_plane(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8 or values.ndim != 2:
        raise ValueError(f"expected uint8 [H, W], got {values.dtype} {values.shape}")
    return np.ascontiguousarray(values)


def _write_png(path: epath.PathLike, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
