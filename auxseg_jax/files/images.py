"""Label maps and grey maps as 8-bit PNGs, and photos as JPEGs."""

import contextlib
import functools
import io
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image, PngImagePlugin

from auxseg_jax.errors import UserError
from auxseg_jax.files.storage import write_bytes
from auxseg_jax.pixel_labels import IGNORE, palette

_MADE_FROM = "made_from"


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] or RGB [H, W, 3] as PNG.

    Planes are stored in mode L, because TFDS and OpenCV turn palettes into colours.
    """
    return _encode(Image.fromarray(pixels), "PNG")


def encode_label_png(labels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] class indices (255: no label) as an indexed PNG with VOC's palette."""
    image = Image.fromarray(_uint8_plane(labels))
    # This turns the grey image into mode P; the pixels stay the indices.
    image.putpalette(palette().tobytes())
    return _encode(image, "PNG")


def write_label_png(path: epath.PathLike, labels: np.ndarray) -> None:
    """Writes what `encode_label_png` returns."""
    write_bytes(path, encode_label_png(labels))


def encode_grey_png(values: np.ndarray, made_from: str = "") -> bytes:
    """Encodes uint8 [H, W] as an 8-bit grey PNG, which may say what it was made from."""
    info = PngImagePlugin.PngInfo()
    if made_from:
        info.add_text(_MADE_FROM, made_from)
    return _encode(Image.fromarray(_uint8_plane(values)), "PNG", pnginfo=info)


def made_from(path: epath.PathLike) -> str:
    """Returns what a PNG says that it was made from; "" if it says nothing, or cannot be read."""
    try:
        with Image.open(io.BytesIO(epath.Path(path).read_bytes())) as image:
            return str(image.info.get(_MADE_FROM, ""))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def write_grey_png(path: epath.PathLike, values: np.ndarray) -> None:
    """Writes what `encode_grey_png` returns."""
    write_bytes(path, encode_grey_png(values))


def write_jpeg(path: epath.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3] as a JPEG to look at."""
    write_bytes(path, encode_jpeg(pixels))


def encode_jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """Encodes uint8 RGB [H, W, 3]."""
    return _encode(Image.fromarray(pixels), "JPEG", quality=quality)


def decode_plane(data: bytes, grey: bool = False) -> np.ndarray:
    """Decodes an indexed or grey 8-bit PNG to its raw uint8 [H, W] values.

    Args:
      data: the file's content.
      grey: the values are greys, so an indexed PNG must have the palette in which index k is
        grey k.

    Raises:
      UserError: it is anything else.
    """
    with _opened_plane(data) as image:
        if grey and image.mode == "P" and not np.array_equal(image.convert("L"), image):
            raise UserError(
                "expected greys, found indices of a palette; save it as 8-bit grey (mode L)"
            )
        return np.asarray(image)


def decode_labels(data: bytes, num_labels: int) -> np.ndarray:
    """Decodes an indexed or grey 8-bit PNG to class indices, uint8 [H, W].

    Programs that compress pictures (pngquant, ImageMagick, GIMP) keep the colours of an indexed PNG
    and number them anew. So where all colours of the palette are VOC's, but at other indices, the
    colours are meant.

    Args:
      data: the file's content.
      num_labels: number of classes with background; a colour of a class beyond means nothing.

    Raises:
      UserError: it is anything else.
    """
    with _opened_plane(data) as image:
        plane = np.asarray(image)
        if image.mode == "L":
            return plane
        used = np.unique(plane)
        own = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    meant = [_voc_colours().get(bytes(colour)) for colour in own]
    if None in meant or used.max() >= len(own):
        return plane
    labels = [meant[index] for index in used]
    if len(set(labels)) < len(labels) or any(num_labels <= m != IGNORE for m in labels):
        return plane
    translation = np.arange(256, dtype=np.uint8)
    translation[used] = labels
    return translation[plane]


@functools.cache
def _voc_colours() -> dict[bytes, int]:
    return {bytes(colour): index for index, colour in enumerate(palette())}


@contextlib.contextmanager
def _opened_plane(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("L", "P"):
                raise UserError(
                    f"expected an 8-bit grey or indexed PNG (mode L or P), found mode {image.mode}"
                )
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"not a readable PNG ({error})") from error


def read_plane(path: epath.PathLike, num_labels: int | None = None) -> np.ndarray:
    """Reads a file with `decode_plane`, or with `decode_labels` if `num_labels` is given.

    Raises:
      UserError: it cannot be read; the message names the file.
    """
    try:
        data = epath.Path(path).read_bytes()
        return decode_plane(data) if num_labels is None else decode_labels(data, num_labels)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a label map: {error}") from error


def _encode(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _uint8_plane(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8 or values.ndim != 2:
        raise ValueError(f"expected uint8 [H, W], got {values.dtype} {values.shape}")
    return np.ascontiguousarray(values)
