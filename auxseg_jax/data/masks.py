"""Pixel labels in the forms that data sets have them.

These are indexed PNGs, SBD's .mat files, and COCO's polygons and run lengths.
"""

import io
import zlib
from collections.abc import Sequence

import numpy as np
import scipy.io
from etils import epath

from auxseg_jax.data.listing import Objects
from auxseg_jax.errors import UserError
from auxseg_jax.files import images

_LARGEST_COORDINATE = 1e7  # No photo has so many pixels in a row.
_BROKEN_MAT_ERRORS = (  # What scipy raises for a damaged file.
    *(scipy.io.matlab.MatReadError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, NotImplementedError, OSError, zlib.error),
)


def read(source: epath.Path | Objects, num_labels: int) -> np.ndarray:
    """Reads the mask of a `Photo`, uint8 [H, W].

    Args:
      source: where it is.
      num_labels: number of classes with background, see `images.decode_labels`.

    Raises:
      UserError: it is broken.
    """
    if isinstance(source, Objects):
        return paint(source)
    data = source.read_bytes()
    if source.suffix == ".mat":
        return read_sbd(data)
    return images.decode_labels(data, num_labels)


def read_sbd(data: bytes) -> np.ndarray:
    """Reads the class map of SBD (Hariharan et al., ICCV 2011), uint8 [H, W].

    It is GTcls.Segmentation of a MATLAB file.
    """
    try:
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=["GTcls"])
        plane = content["GTcls"]["Segmentation"][0, 0]
    except _BROKEN_MAT_ERRORS as error:
        raise UserError(f"not a class map of SBD ({error})") from error
    if plane.ndim != 2 or plane.dtype != np.uint8:
        raise UserError(f"not a class map of SBD (it holds {plane.dtype} {plane.shape})")
    return plane


def paint(objects: Objects) -> np.ndarray:
    """Paints the objects of a photo, uint8 [H, W], smaller ones over larger.

    Crowds are painted like objects.
    """
    plane = np.zeros(objects.size, np.uint8)
    for index, _, segmentation in sorted(objects.parts, key=lambda part: -part[1]):
        plane[region(segmentation, objects.size)] = index
    return plane


def region(segmentation: list | dict, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels of one object of COCO, bool [H, W].

    Args:
      segmentation: polygons [[x0, y0, x1, y1, ...], ...], or run lengths {"size", "counts"}, the
        counts as numbers or packed into text.
      size: (H, W).
    """
    if isinstance(segmentation, list):
        inside = np.zeros(size, bool)
        for polygon in segmentation:
            inside |= polygon_region(polygon, size)
        return inside
    try:
        counts, stated = segmentation["counts"], tuple(segmentation["size"])
    except (KeyError, TypeError) as error:
        raise UserError("neither polygons nor run lengths (size and counts)") from error
    if stated != tuple(size):
        raise UserError(f"run lengths of {stated}, in a photo of {tuple(size)}")
    counts = _unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(type(n) is int for n in counts):
        raise UserError("run lengths that are neither whole numbers nor text")
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise UserError(
            f"its run lengths sum to {sum(counts)}, the photo has {size[0] * size[1]} pixels"
        )
    # The runs go column by column and start outside.
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


def polygon_region(polygon: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels whose centre is inside a polygon, bool [H, W], by the even-odd rule.

    Pixel (row i, column j) covers x from j to j + 1 and y from i to i + 1, as in COCO.

    Args:
      polygon: x0, y0, x1, y1, ...
      size: (H, W).
    """
    height, width = size
    x, y = _corners(polygon)
    if len(x) < 3:  # A point or a line covers no centre.
        return np.zeros(size, bool)
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    low, high = np.minimum(y, y_next), np.maximum(y, y_next)
    # An edge meets the rows whose centre line i + 0.5 it crosses. Its upper end is excluded, so
    # that a shared corner counts once.
    first, last = (np.clip(np.ceil(v - 0.5), 0, height).astype(int) for v in (low, high))
    lengths = last - first
    edges = np.repeat(np.arange(len(x)), lengths)
    rows = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths) + first[edges]
    along = (rows + 0.5 - y[edges]) / (y_next[edges] - y[edges])
    crossing_x = x[edges] + along * (x_next[edges] - x[edges])
    columns = np.clip(np.ceil(crossing_x - 0.5), 0, width).astype(int)
    crossings = np.zeros((height, width + 1), np.int32)
    np.add.at(crossings, (rows, columns), 1)
    return (crossings.cumsum(1)[:, :width] & 1).astype(bool)


def _corners(polygon: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"a polygon that is no list of numbers ({error})") from error
    if points.ndim != 1 or points.size % 2 or not (np.abs(points) < _LARGEST_COORDINATE).all():
        raise UserError(
            f"a polygon of {points.size} numbers: expected x, y of its points, "
            f"below {_LARGEST_COORDINATE:g}"
        )
    return points[0::2], points[1::2]


def _unpack(text: str) -> list[int]:
    """Decodes run lengths from COCO's text.

    The digits are of base 32, the least first, from character 48 on. From the third number on they
    are differences to the last but one.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        digit = character - 48
        if not 0 <= digit < 64:
            raise UserError(f"run lengths with the character {chr(character)!r}")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise UserError("run lengths that end within a number")
    return counts
