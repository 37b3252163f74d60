"""What the content of pictures says against them, although each can be read.

Masks of 0 and 255 where 255 means "no label", saliency of 0 and 1 where 255 is salient, classes
that masks number in another order than the image labels, maps that were made of a photo before its
EXIF tag turned it: with all of these a run would go to its end, and its figures would mean nothing.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import scipy.optimize
from PIL import Image

from auxseg_jax.data import features
from auxseg_jax.data.planes import GREY, PLANES, Plane
from auxseg_jax.errors import fault
from auxseg_jax.pixel_labels import IGNORE

_DIM = 31
"""A grey map is as good as black if no pixel is above this; `fuse.saliency_threshold` is 15."""

_MOST = 0.5
"""Share of the photos of a split from which on something is no exception."""

_INVERTED, _BRIGHT = 0.8, 200
"""Share of maps that are bright along their border, from which on they are upside down."""

_LEAST_PHOTOS = 4
"""Fewer say nothing about a data set."""

_SHOWN = 3
# Agreement of masks and image labels (Jaccard index of their classes) by which another order of
# classes is told from noise.
_AGREES, _BETTER = 0.6, 0.3
_DISAGREES = 0.3
_CLEARER = 1.15
"""How much steeper a photo must be at the edges of its maps when they are turned."""

_TURNS = {  # EXIF orientation -> what a viewer does with the stored pixels.
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x),
}


class Facts(NamedTuple):
    """What is noted of one photo when it is read.

    Attributes:
      mask_pixels: int64 [C + 2]: pixels of each label of the mask, 255 last; -1 without a mask.
      largest: int64 [number of PLANES]: the largest value of each plane; -1 where there is none.
      means: float64 [number of PLANES, 3]: mean of each plane along its border, in its middle, and
        its least value.
      edges: float64 [2]: how steep the photo is at the edges of its mask and maps as they are, and
        turned as the photo's EXIF tag says; NaN if that cannot be told apart by size alone.
    """

    mask_pixels: np.ndarray
    largest: np.ndarray
    means: np.ndarray
    edges: np.ndarray


def facts(
    image: bytes,
    size: tuple[int, int] | None,
    planes: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
    num_labels: int,
) -> Facts:
    """Notes what `judge` needs of one photo.

    Args:
      image: its file.
      size: (H, W) as it is seen, None if it cannot be read.
      planes: {plane: uint8 [H, W] or bool [K, H, W]}.
      mask: uint8 [H, W], or None.
      num_labels: C + 1.
    """
    pixels = np.full(num_labels + 1, -1, np.int64)
    if mask is not None:
        counts = np.bincount(mask.reshape(-1), minlength=256)
        pixels[:-1], pixels[-1] = counts[:num_labels], counts[IGNORE]
    largest = [int(planes[name].max(initial=0)) if name in planes else -1 for name in PLANES]
    maps = [plane > 127 for name, plane in planes.items() if PLANES[name].kind == GREY]
    maps += [] if mask is None else [(mask > 0) & (mask != IGNORE)]
    means = [_means(planes[name]) if name in planes else (0, 0, 0) for name in PLANES]
    return Facts(
        pixels, np.array(largest, np.int64), np.array(means, float), _edges(image, size, maps)
    )


def _means(plane: np.ndarray) -> tuple[float, float, float]:
    height, width = plane.shape[-2:]
    middle = plane[..., height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)]
    sides = (plane[..., 0, :], plane[..., -1, :], plane[..., :, 0], plane[..., :, -1])
    border = np.concatenate([side.reshape(-1) for side in sides])
    return float(border.mean()), float(middle.mean()), float(plane.min())


def orientation(image: bytes) -> int:
    """Returns the EXIF orientation of an image file, 1 if it has none that is known."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            value = opened.getexif().get(0x112, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1  # What is wrong with it is said by whoever reads it.
    return value if value in _TURNS else 1


def _edges(image: bytes, size: tuple[int, int] | None, maps: Sequence[np.ndarray]) -> np.ndarray:
    unknown = np.full(2, np.nan)
    turn = _TURNS.get(orientation(image)) if size else None
    maps = [plane for plane in maps if plane.shape == size and plane.any() and not plane.all()]
    if turn is None or not maps or turn(maps[0]).shape != size:
        return unknown
    grey = features.decode_image(image).mean(-1).astype(np.float32)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    kernel = np.ones((3, 3), np.uint8)

    def steepness(plane: np.ndarray) -> float:
        edge = cv2.morphologyEx(plane.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
        return float(slope[edge].mean())

    scores = [[steepness(plane), steepness(turn(plane).copy())] for plane in maps]
    return np.mean(scores, axis=0)


def judge(
    split: str,
    names: Sequence[str],
    labels: np.ndarray,
    noted: Facts,
    classes: Sequence[str],
) -> list[str]:
    """Reports as faults what cannot be right; returns what a user should know beside.

    Args:
      split: name of the split.
      names: ids of its n photos.
      labels: uint8 [n, C], image-level labels.
      noted: the facts of all photos, with a leading axis n.
      classes: names, background first.
    """
    remarks = _judge_planes(split, names, noted.largest)
    _judge_sides(split, names, noted)
    has_mask = noted.mask_pixels[:, 0] >= 0
    if has_mask.any():
        selected = [name for name, has in zip(names, has_mask, strict=True) if has]
        remarks += _judge_masks(
            split, selected, labels[has_mask] > 0, noted.mask_pixels[has_mask], classes
        )
    told = noted.edges[~np.isnan(noted.edges).any(1)]
    if len(told):
        upright, turned = told.mean(0)
        if turned > _CLEARER * upright:
            fault(
                f"{split}: {len(told)} photos have an EXIF tag that turns them, and their masks or "
                "maps fit the photos as they are stored, not as they are seen; make them from the "
                "turned photos, or turn the photos and remove the tag (jhead -autorot)"
            )
    return remarks


def _judge_planes(split: str, names: Sequence[str], largest: np.ndarray) -> list[str]:
    remarks = []
    for plane, values in zip(PLANES.values(), largest.T, strict=True):
        there = values >= 0
        if not _is_saliency(plane) or not there.any():
            continue
        are_many = there.sum() >= _LEAST_PHOTOS
        dim = there & (values > 0) & (values <= _DIM)
        black = values == 0
        if are_many and not (there & ~black).any():
            fault(f"{split}: all {there.sum()} {plane.name} maps are black")
            continue
        if are_many and dim.sum() > _MOST * (there & ~black).sum():
            largest_dim = values[dim].max()
            advice = "multiply by 255" if largest_dim == 1 else "rescale them"
            fault(
                f"{split}: the {plane.name} maps hold no value above {largest_dim} in "
                f"{dim.sum()} of {there.sum()} photos; 255 is {plane.name} 1, so save them with "
                f"values of 0 to 255 ({advice})"
            )
        elif dim.any():
            remarks.append(
                f"{split}: {_counted(names, dim)} a {plane.name} map without a value above {_DIM}"
            )
        if black.any():
            remarks.append(f"{split}: {_counted(names, black)} a black {plane.name} map")
    return remarks


def _is_saliency(plane: Plane) -> bool:
    """Returns whether 255 means an object; other grey planes may hold anything."""
    return plane.kind == GREY and plane.learned


def _judge_sides(split: str, names: Sequence[str], noted: Facts) -> None:
    """Reports saliency without background, and saliency that is upside down."""
    for index, plane in enumerate(PLANES.values()):
        there = noted.largest[:, index] > _DIM
        if not _is_saliency(plane) or there.sum() < _LEAST_PHOTOS:
            continue
        border, middle, least = noted.means[:, index].T
        white = there & (least > _DIM)
        if white.sum() > _MOST * there.sum():
            fault(
                f"{split}: {_counted(names, white)} a {plane.name} map without a value below "
                f"{_DIM}: everything would be an object"
            )
            continue
        inverted = there & (border > _BRIGHT) & (border > middle)
        if inverted.sum() > _INVERTED * there.sum():
            fault(
                f"{split}: {_counted(names, inverted)} a {plane.name} map that is bright along its "
                "border and darker in its middle; 255 is an object, 0 is background"
            )


def _judge_masks(
    split: str,
    names: Sequence[str],
    labels: np.ndarray,
    pixels: np.ndarray,
    classes: Sequence[str],
) -> list[str]:
    present = pixels[:, 1:-1] > 0
    has_object = labels.any(1)
    # Such masks come from programs that write an object as white.
    binary = has_object & ~present.any(1) & (pixels[:, -1] > 0)
    if binary.sum() > _MOST * has_object.sum():
        fault(
            f"{split}: {_counted(names, binary)} a mask of 0 and 255 alone; 255 means 'no label' "
            "here, and class k is written as k. For a single class write 1 in place of 255"
        )
        return []
    wrong = (present != labels).any(1)
    if not wrong.any():
        return []
    index = int(np.flatnonzero(wrong)[0])
    message = (
        f"{split}: in {wrong.sum()} of {len(names)} photos mask and label name other classes; "
        f"{names[index]}: the mask holds {_named(present[index], classes)}, the label says "
        f"{_named(labels[index], classes)}"
    )
    agreement = _jaccard(present, labels)
    if len(names) < _LEAST_PHOTOS:
        return [message]
    order = _best_order(present, labels)
    reordered = _jaccard(present[:, order], labels)
    if reordered >= max(_AGREES, agreement + _BETTER):
        pairs = [
            f"{classes[mask + 1]} of the masks is {classes[label + 1]} of the labels"
            for label, mask in enumerate(order)
            if label != mask and (labels[:, label].any() or present[:, mask].any())
        ]
        fault(
            f"{message}. They agree in {agreement:.0%} of the classes, and would in "
            f"{reordered:.0%} with another order of classes: {'; '.join(pairs[:20])}. Bring "
            "classes.txt, the masks and the labels into one order"
        )
    elif agreement < _DISAGREES:
        fault(f"{message}. They agree in only {agreement:.0%} of the classes")
    else:
        return [message]
    return []


def _best_order(present: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the class of the masks that stands for each class of the labels."""
    together = labels.T.astype(np.int64) @ present.astype(np.int64)
    # Of orders that are as good, the one that changes least.
    own = np.eye(len(together)) / (2 * len(together))
    return scipy.optimize.linear_sum_assignment(together + own, maximize=True)[1]


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def _named(flags: np.ndarray, classes: Sequence[str]) -> str:
    return ", ".join(classes[k + 1] for k in np.flatnonzero(flags)) or "none"


def _counted(names: Sequence[str], flags: np.ndarray) -> str:
    """Returns "3 of 20 photos (a, b, c) have"."""
    chosen = [names[k] for k in np.flatnonzero(flags)]
    shown = ", ".join(chosen[:_SHOWN]) + (", ..." if len(chosen) > _SHOWN else "")
    return f"{len(chosen)} of {len(names)} photos ({shown}) have"
