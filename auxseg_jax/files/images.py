"""Label maps and grey maps as 8-bit PNGs, and photos as JPEGs."""

import io

import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax.errors import UserError
from auxseg_jax.files.storage import write_bytes
from auxseg_jax.pixel_labels import palette


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


def encode_grey_png(values: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] as an 8-bit grey PNG."""
    return encode_png(_uint8_plane(values))


def write_grey_png(path: epath.PathLike, values: np.ndarray) -> None:
    """Writes what `encode_grey_png` returns."""
    write_bytes(path, encode_grey_png(values))


def write_jpeg(path: epath.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3] as a JPEG to look at."""
    write_bytes(path, encode_jpeg(pixels))


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes uint8 RGB [H, W, 3]."""
    return _encode(Image.fromarray(pixels), "JPEG", quality=90)


def decode_plane(data: bytes, grey: bool = False) -> np.ndarray:
    """Decodes an indexed or grey 8-bit PNG to its raw uint8 [H, W] values.

    Args:
      data: the file's content.
      grey: the values are greys, so an indexed PNG must have the palette in which index k is
        grey k.

    Raises:
      UserError: it is anything else.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if grey and image.mode == "P" and not np.array_equal(image.convert("L"), image):
                raise UserError(
                    "expected greys, found indices of a palette; save it as 8-bit grey (mode L)"
                )
            if image.mode not in ("L", "P"):
                raise UserError(
                    f"expected an 8-bit grey or indexed PNG (mode L or P), found mode {image.mode}"
                )
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"not a readable PNG ({error})") from error


def read_plane(path: epath.PathLike) -> np.ndarray:
    """Reads a file with `decode_plane`.

    Raises:
      UserError: it cannot be read; the message names the file.
    """
    try:
        return decode_plane(epath.Path(path).read_bytes())
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
