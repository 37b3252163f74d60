"""Pixel labels in the forms that data sets have them: indexed PNG, SBD's .mat, COCO's polygons and run lengths."""

import io
import zlib
from collections.abc import Sequence

import numpy as np
import scipy.io
from etils import epath

from auxseg_jax import files
from auxseg_jax.data.listing import Objects

_FAR = 1e7  # pixels
_BROKEN_MAT = (  # what scipy raises of a damaged file
    *(scipy.io.matlab.MatReadError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(NotImplementedError, OSError, zlib.error),
)


def read(source: epath.Path | Objects) -> np.ndarray:
    """uint8 [H, W] of the mask of a `Photo`; ValueError if it is broken."""
    if isinstance(source, Objects):
        return paint(source)
    return read_sbd(source.read_bytes()) if source.suffix == ".mat" else files.decode_plane(source.read_bytes())


def read_sbd(data: bytes) -> np.ndarray:
    """The class map of SBD (Hariharan et al., ICCV 2011): GTcls.Segmentation of a MATLAB file."""
    try:
        plane = scipy.io.loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    except _BROKEN_MAT as error:
        raise ValueError(f"not a class map of SBD ({error})") from error
    if plane.ndim != 2 or plane.dtype != np.uint8:
        raise ValueError(f"not a class map of SBD (it holds {plane.dtype} {plane.shape})")
    return plane


def paint(objects: Objects) -> np.ndarray:
    """Mask uint8 [H, W] of the objects of a photo, smaller ones over larger; crowds are painted like objects."""
    plane = np.zeros(objects.size, np.uint8)
    for index, _, segmentation in sorted(objects.parts, key=lambda part: -part[1]):
        plane[region(segmentation, objects.size)] = index
    return plane


def region(segmentation: list | dict, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] of a segmentation of COCO: polygons [[x0, y0, x1, y1, ...], ...], or run lengths, as numbers or packed into text."""
    if isinstance(segmentation, list):
        inside = np.zeros(size, bool)
        for polygon in segmentation:
            inside |= polygon_region(polygon, size)
        return inside
    try:
        counts, stated = segmentation["counts"], tuple(segmentation["size"])
    except (KeyError, TypeError) as error:
        raise ValueError("neither polygons nor run lengths (size and counts)") from error
    if stated != tuple(size):
        raise ValueError(f"run lengths of {stated}, in a photo of {tuple(size)}")
    counts = _unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(type(n) is int for n in counts):
        raise ValueError("run lengths that are neither whole numbers nor text")
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError(f"its run lengths sum to {sum(counts)}, the photo has {size[0] * size[1]} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T  # column by column, starting outside


def polygon_region(polygon: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: pixels whose centre is inside a polygon (x0, y0, x1, y1, ...), by the even-odd rule.

    Pixel (row i, column j) covers x from j to j + 1 and y from i to i + 1, as in COCO.
    """
    height, width = size
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a polygon that is no list of numbers ({error})") from error
    if points.ndim != 1 or points.size % 2 or not (np.abs(points) < _FAR).all():
        raise ValueError(f"a polygon of {points.size} numbers: expected x, y of its points, below {_FAR:g}")
    if points.size < 6:  # a point or a line covers no centre
        return np.zeros(size, bool)
    x, y = points[0::2], points[1::2]
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    low, high = np.minimum(y, y_next), np.maximum(y, y_next)
    # rows whose centre line i + 0.5 an edge meets, its upper end excluded: a shared corner counts once
    first, last = (np.clip(np.ceil(v - 0.5), 0, height).astype(int) for v in (low, high))
    lengths = last - first
    edges = np.repeat(np.arange(len(x)), lengths)
    rows = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths) + first[edges]
    along = (rows + 0.5 - y[edges]) / (y_next[edges] - y[edges])
    columns = np.clip(np.ceil(x[edges] + along * (x_next[edges] - x[edges]) - 0.5), 0, width).astype(int)
    crossings = np.zeros((height, width + 1), np.int32)
    np.add.at(crossings, (rows, columns), 1)
    return (crossings.cumsum(1)[:, :width] & 1).astype(bool)


def _unpack(text: str) -> list[int]:
    """Run lengths from COCO's text: base 32, least digit first, from character 48; from the third on as differences to the last but one."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        digit = character - 48
        if not 0 <= digit < 64:
            raise ValueError(f"run lengths with the character {chr(character)!r}")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end within a number")
    return counts
