"""Augmentation of one example, in numpy and OpenCV. The arrays of an example share their [H, W]."""

import dataclasses

import cv2
import numpy as np

from auxseg_jax.data.planes import PLANES

cv2.setNumThreads(0)  # The loader has threads of its own.


def rescale(example: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """Resizes an example as the authors do.

    Photo and greys are bilinear (half-pixel centres, no antialiasing), labels nearest, by OpenCV.
    """
    height, width = example["image"].shape[:2]
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return {
        key: cv2.resize(value, size, interpolation=_interpolation(key))
        for key, value in example.items()
    }


def _interpolation(key: str) -> int:
    return PLANES[key].interpolation if key in PLANES else cv2.INTER_LINEAR


def flip(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mirrors left and right."""
    return {key: cv2.flip(value, 1) for key, value in example.items()}


def crop_or_pad(
    example: dict[str, np.ndarray],
    size: int,
    rng: np.random.Generator,
    padding_is_background: bool = False,
) -> dict[str, np.ndarray]:
    """Takes a random size x size window; a smaller example is placed at random and padded.

    Padding of the photo is 0. In a plane it is `Plane.padding`, which no loss counts, or 0 if
    `padding_is_background`.

    Returns:
      The example, and "window": int32 (top, left, bottom, right) of what is not padding.
    """
    height, width = example["image"].shape[:2]
    source, target = [], []
    for extent in (height, width):
        free = extent - size
        start = int(rng.integers(abs(free) + 1))
        source.append(slice(start, start + size) if free > 0 else slice(0, extent))
        target.append(slice(0, size) if free > 0 else slice(start, start + extent))
    window = [part.start for part in target] + [part.stop for part in target]
    crop = {"window": np.array(window, np.int32)}
    for key, value in example.items():
        fill = PLANES[key].padding if key in PLANES and not padding_is_background else 0
        crop[key] = np.full((size, size, *value.shape[2:]), fill, value.dtype)
        crop[key][tuple(target)] = value[tuple(source)]
    return crop


def colour_jitter(
    image: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    """Multiplies brightness, then contrast (about the mean), then saturation (about the grey).

    Together they are one affine map of a pixel's colour.

    Args:
      image: uint8 [H, W, 3].
      brightness: factor.
      contrast: factor.
      saturation: factor.

    Returns:
      uint8 [H, W, 3].
    """
    mixing = saturation * np.eye(3) + (1 - saturation) / 3
    offset = brightness * np.mean(cv2.mean(image)[:3]) * (1 - contrast)
    affine = np.column_stack([brightness * contrast * mixing, np.full(3, offset)])
    return cv2.transform(image, affine)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training examples are augmented: the config's `augment.*`.

    Attributes:
      crop: side of the result, pixels.
      scale: range of the resize factor.
      scale_per: "photo" or "batch", what shares a factor.
      flip_probability: probability of a mirror image.
      jitter: strength of `colour_jitter`; its factors are 1 +- jitter.
      padding_is_background: see `crop_or_pad`.
    """

    crop: int
    scale: tuple[float, float]
    scale_per: str
    flip_probability: float
    jitter: float
    padding_is_background: bool


def augment(
    example: dict[str, np.ndarray],
    rng: np.random.Generator,
    scale_rng: np.random.Generator,
    options: Augmentation,
) -> dict[str, np.ndarray]:
    """Augments one training example.

    Args:
      example: "image" uint8 [H, W, 3] and, for a stage, the planes of `planes.LEARNED`.
      rng: source of all randomness but the scale's.
      scale_rng: source of the scale; another one where a batch shares its scale.
      options: what is done.
    """
    factors = rng.uniform(1 - options.jitter, 1 + options.jitter, 3) if options.jitter else None
    example = rescale(example, scale_rng.uniform(*options.scale))
    if rng.random() < options.flip_probability:
        example = flip(example)
    crop = crop_or_pad(example, options.crop, rng, options.padding_is_background)
    if factors is not None:  # Last, where there are the fewest pixels.
        top, left, bottom, right = crop["window"]
        photo = crop["image"][top:bottom, left:right]
        photo[...] = colour_jitter(photo, *factors)
    return crop
