"""Augmentation of one example, in numpy and OpenCV. The arrays of an example share their [H, W]."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from auxseg_jax.data.planes import PLANES

cv2.setNumThreads(0)  # The loader has threads of its own.


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Turns uint8 or float [H, W, 3] in 0..255 into float32 (image - mean) / std."""
    centred = image.astype(np.float32) - np.asarray(mean, np.float32)
    return centred / np.asarray(std, np.float32)


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
    return {key: value[:, ::-1] for key, value in example.items()}


def crop_or_pad(
    example: dict[str, np.ndarray],
    size: int,
    rng: np.random.Generator,
    padding_is_background: bool = False,
) -> dict[str, np.ndarray]:
    """Takes a random size x size window; a smaller example is placed at random and padded.

    Padding is 0 in the (normalised) photo. In a plane it is `Plane.padding`, which no loss counts,
    or 0 if `padding_is_background`.
    """
    height, width = example["image"].shape[:2]
    source, target = [], []
    for extent in (height, width):
        free = extent - size
        start = int(rng.integers(abs(free) + 1))
        source.append(slice(start, start + size) if free > 0 else slice(0, extent))
        target.append(slice(0, size) if free > 0 else slice(start, start + extent))
    crop = {}
    for key, value in example.items():
        fill = PLANES[key].padding if key in PLANES and not padding_is_background else 0
        crop[key] = np.full((size, size, *value.shape[2:]), fill, value.dtype)
        crop[key][tuple(target)] = value[tuple(source)]
    return crop


def colour_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast and saturation, each by a random factor of 1 +- strength.

    Args:
      image: uint8 or float [H, W, 3] in 0..255.
      strength: 0..1.
      rng: source of randomness.

    Returns:
      float32 [H, W, 3] in 0..255.
    """
    image = image.astype(np.float32)
    factors = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    brightness, contrast, saturation = factors
    image = image * brightness
    image = (image - image.mean()) * contrast + image.mean()
    grey = image.mean(-1, keepdims=True)
    return np.clip((image - grey) * saturation + grey, 0, 255)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training examples are augmented: the config's `augment.*`, and the backbone's numbers.

    Attributes:
      crop: side of the result, pixels.
      scale: range of the resize factor.
      scale_per: "photo" or "batch", what shares a factor.
      flip_probability: probability of a mirror image.
      jitter: strength of `colour_jitter`.
      padding_is_background: see `crop_or_pad`.
      mean: see `normalize`.
      std: see `normalize`.
    """

    crop: int
    scale: tuple[float, float]
    scale_per: str
    flip_probability: float
    jitter: float
    padding_is_background: bool
    mean: Sequence[float]
    std: Sequence[float]


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
    example = dict(example)
    if options.jitter:
        example["image"] = colour_jitter(example["image"], options.jitter, rng)
    example = rescale(example, scale_rng.uniform(*options.scale))
    if rng.random() < options.flip_probability:
        example = flip(example)
    example["image"] = normalize(example["image"], options.mean, options.std)
    return crop_or_pad(example, options.crop, rng, options.padding_is_background)
