"""Label maps and grey maps as 8-bit PNGs, and photos as JPEGs."""

import contextlib
import functools
import io
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image, PngImagePlugin, UnidentifiedImageError

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
    """Decodes a PNG of one value a pixel to its raw uint8 [H, W] values.

    Args:
      data: the file's content: grey of 1, 8 or 16 bits, grey written as RGB, or indexed.
      grey: the values are greys, black to white as 0 to 255 in any depth, so an indexed PNG must
        have the palette in which index k is grey k. Otherwise they are class indices.

    Raises:
      UserError: it is anything else.
    """
    with opened(data) as image:
        if image.mode == "L":
            return np.asarray(image)
        if image.mode == "P":
            if grey and not np.array_equal(image.convert("L"), image):
                raise UserError(
                    "expected greys, found indices of a palette; save it as 8-bit grey (mode L)"
                )
            return np.asarray(image)
        plane, largest = _single_channel(image)
    if grey:
        return np.round(plane * (255 / largest)).astype(np.uint8)
    if plane.max(initial=0) > IGNORE:
        raise UserError(f"expected class indices up to 255, found {plane.max()}")
    return plane.astype(np.uint8)


def decode_labels(data: bytes, num_labels: int) -> np.ndarray:
    """Decodes a PNG to class indices, uint8 [H, W].

    It is grey or indexed, or in VOC's colours. Programs that compress pictures (pngquant,
    ImageMagick, GIMP) keep the colours of an indexed PNG and number them anew. So where all colours
    of the palette are VOC's, but at other indices, the colours are meant.

    Args:
      data: the file's content.
      num_labels: number of classes with background; a colour of a class beyond means nothing.

    Raises:
      UserError: it is anything else.
    """
    with opened(data) as image:
        plane = np.asarray(image)
        if _is_coloured(image, plane, num_labels):
            return _labels_of_colours(plane, num_labels)
        if image.mode != "P":
            return decode_plane(data)
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


def _is_coloured(image: Image.Image, pixels: np.ndarray, num_labels: int) -> bool:
    """Returns whether the colours of pixels mean labels.

    A few of VOC's colours are greys; they are meant where their levels are no labels.
    """
    if image.mode not in ("RGB", "RGBA"):
        return False
    if (pixels[..., :1] != pixels[..., :3]).any():
        return True
    levels = np.unique(pixels[..., 0]).tolist()
    greys = {colour[0] for colour in _voc_colours() if len(set(colour)) == 1}
    return set(levels) <= greys and levels[-1] >= num_labels


def _labels_of_colours(pixels: np.ndarray, num_labels: int) -> np.ndarray:
    """Returns the labels that the colours [H, W, 3 or 4] of a mask stand for by VOC's palette."""
    coded = pixels[..., :3].astype(np.int32) @ [65536, 256, 1]
    colours, positions = np.unique(coded, return_inverse=True)
    known = {int.from_bytes(c, "big"): k for c, k in _voc_colours().items()}
    labels = [known.get(int(colour)) for colour in colours]
    for colour, label in zip(colours.tolist(), labels, strict=True):
        if label is None or num_labels <= label != IGNORE:
            red, green, blue = colour.to_bytes(3, "big")
            raise UserError(
                f"it is in colours, and ({red}, {green}, {blue}) is not that of any of the "
                f"{num_labels} labels in VOC's palette; write class indices instead (mode L or P)"
            )
    return np.array(labels, np.uint8)[positions].reshape(coded.shape)


@functools.cache
def _voc_colours() -> dict[bytes, int]:
    return {bytes(colour): index for index, colour in enumerate(palette())}


def _single_channel(image: Image.Image) -> tuple[np.ndarray, int]:
    """Returns the values [H, W] of a picture in another mode than L or P, and that of white."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8), 1
    if image.mode.startswith("I"):
        return np.asarray(image), 65535
    pixels = np.asarray(image)
    if image.mode in ("RGB", "RGBA", "LA"):
        bands = pixels if image.mode == "RGB" else pixels[..., :-1]
        if (bands == bands[..., :1]).all():
            return bands[..., 0], 255
    raise UserError(
        "expected a grey or indexed PNG (mode L or P), found "
        + ("colours" if image.mode.startswith("RGB") else f"mode {image.mode}")
    )


@contextlib.contextmanager
def opened(data: bytes, kind: str = "PNG") -> Iterator[Image.Image]:
    """Opens a picture. What fails while it is open is a UserError that calls it a `kind`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:  # Its own message names an object in memory.
        raise UserError(f"not a readable {kind}") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"not a readable {kind} ({error})") from error


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
