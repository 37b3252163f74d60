"""Augmentation of one example, in numpy and OpenCV. Arrays of an example share their [H, W]."""

from collections.abc import Sequence

import cv2
import numpy as np

from auxseg_jax.files import IGNORE

PADDING_SALIENCY = -1.0
"""Value of a padded pixel in a saliency map; the saliency loss leaves it out."""

cv2.setNumThreads(0)  # the loader has threads of its own


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 or float [H, W, 3] in 0..255 -> float32 (image - mean) / std."""
    return (image.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def rescale(example: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """Resizes photo and saliency bilinearly (half-pixel centres, no antialiasing), labels by cv2's INTER_NEAREST, as the authors do."""
    height, width = example["image"].shape[:2]
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    how = {"image": cv2.INTER_LINEAR, "saliency": cv2.INTER_LINEAR, "segmentation": cv2.INTER_NEAREST}
    return {key: cv2.resize(value, size, interpolation=how[key]) for key, value in example.items()}


def flip(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mirrors left and right."""
    return {key: value[:, ::-1] for key, value in example.items()}


def crop_or_pad(example: dict[str, np.ndarray], size: int, rng: np.random.Generator, padding_is_background: bool = False) -> dict[str, np.ndarray]:
    """A random size x size window; where the example is smaller it is placed at random and padded.

    Padding is 0 in the (normalised) photo; in the labels it is 255 and in the saliency `PADDING_SALIENCY`, neither of which
    counts in a loss, or 0 in both if `padding_is_background`.
    """
    height, width = example["image"].shape[:2]
    source, target = [], []
    for extent in (height, width):
        free = extent - size
        start = int(rng.integers(abs(free) + 1))
        source.append(slice(start, start + size) if free > 0 else slice(0, extent))
        target.append(slice(0, size) if free > 0 else slice(start, start + extent))
    fill = {"image": 0, "saliency": PADDING_SALIENCY, "segmentation": IGNORE}
    if padding_is_background:
        fill = dict.fromkeys(fill, 0)
    out = {}
    for key, value in example.items():
        out[key] = np.full((size, size, *value.shape[2:]), fill[key], value.dtype)
        out[key][tuple(target)] = value[tuple(source)]
    return out


def colour_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Random brightness, contrast and saturation, each by a factor of 1 +- strength; uint8 or float -> float32 0..255."""
    image = image.astype(np.float32)
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    image = image * brightness
    image = (image - image.mean()) * contrast + image.mean()
    grey = image.mean(-1, keepdims=True)
    return np.clip((image - grey) * saturation + grey, 0, 255)


def augment(
    example: dict[str, np.ndarray],
    rng: np.random.Generator,
    scale_rng: np.random.Generator,
    *,
    crop: int,
    scale: tuple[float, float],
    flip_probability: float,
    jitter: float,
    padding_is_background: bool,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, np.ndarray]:
    """The training augmentation of one example: {"image" uint8 [H, W, 3]} and, for a stage, saliency and segmentation.

    Args:
      example: arrays of one size; "saliency" float32 in 0..1, "segmentation" uint8.
      rng: the source of all randomness but the scale's, which is `scale_rng`: they differ where a batch shares its scale.
      crop: side of the result, pixels.
      scale: range of the resize factor.
      flip_probability: of a mirror image.
      jitter: strength of `colour_jitter`.
      padding_is_background: see `crop_or_pad`.
      mean, std: of `normalize`.
    """
    example = dict(example)
    if jitter:
        example["image"] = colour_jitter(example["image"], jitter, rng)
    example = rescale(example, scale_rng.uniform(*scale))
    if rng.random() < flip_probability:
        example = flip(example)
    example["image"] = normalize(example["image"], mean, std)
    return crop_or_pad(example, crop, rng, padding_is_background)
