"""`shapes`: a generated data set for the demo and the tests, so that neither needs a download.

Textured figures (each class has its form and its texture, colours are random) lie on textured
grounds and cover one another. A photo has 1 to 3 classes, an exact mask, and a saliency map with
the faults of real ones: soft edges, faint or missed parts, false blobs. Every photo is a function
of (seed, split, index).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds

from auxseg_jax.data import features
from auxseg_jax.files.images import encode_png

CLASSES = ("background", "disc", "square", "triangle", "cross")
PLANES = ("saliency",)
"""The planes that it generates with its photos."""


def _disc(y, x):
    return x**2 + y**2 < 1


def _square(y, x):
    return np.maximum(abs(x), abs(y)) < 0.85


def _triangle(y, x):
    return (y < 0.8) & (y > -1 + 2 * abs(x))


def _cross(y, x):
    return (np.minimum(abs(x), abs(y)) < 0.36) & (np.maximum(abs(x), abs(y)) < 1)


# Form, and texture in -1..1 as a function of the unrotated pixel position, of each foreground
# class.
_FIGURES: tuple[tuple[Callable, Callable], ...] = (
    (_disc, lambda y, x: np.sign(np.sin(1.1 * y))),
    (_square, lambda y, x: np.sign(np.sin(0.8 * x) * np.sin(0.8 * y))),
    (_triangle, lambda y, x: np.sign(np.sin(1.1 * x))),
    (_cross, lambda y, x: np.sign(np.sin(0.4 * (x + y)))),
)


def render(rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
    """Renders one photo.

    Returns:
      {"image" uint8 [H, W, 3], "segmentation" uint8 [H, W], "labels" uint8 [C],
      "saliency" uint8 [H, W]}.
    """
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    image = _ground(rng, height, width)
    mask = np.zeros((height, width), np.uint8)
    chosen = rng.permutation(len(_FIGURES))[: rng.integers(1, 4)]
    figures = [k for k in chosen for _ in range(rng.integers(1, 3) if len(chosen) == 1 else 1)]
    strength = np.zeros((height, width), np.float32)
    for k in figures:
        form, texture = _FIGURES[k]
        radius = rng.uniform(0.17, 0.3) * min(height, width)
        centre = (
            rng.uniform(radius * 0.7, height - radius * 0.7),
            rng.uniform(radius * 0.7, width - radius * 0.7),
        )
        angle = rng.uniform(-0.35, 0.35)
        y, x = (rows - centre[0]) / radius, (columns - centre[1]) / radius
        inside = form(np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x)
        bright, dark = _colours(rng)
        wave = texture(rows + rng.uniform(0, 9), columns + rng.uniform(0, 9))[..., None]
        image = np.where(inside[..., None], (bright + dark) / 2 + wave * (bright - dark) / 2, image)
        mask[inside] = k + 1
        strength[inside] = rng.choice([1.0, 0.8, 0.4], p=[0.7, 0.2, 0.1])
    image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    labels = np.zeros(len(_FIGURES), np.uint8)
    # A figure that is wholly covered does not count.
    labels[np.setdiff1d(np.unique(mask), [0]) - 1] = 1
    return {
        "image": image,
        "segmentation": mask,
        "labels": labels,
        "saliency": _saliency(rng, strength),
    }


def _colours(rng):
    base = rng.uniform(60, 195, 3)
    contrast = rng.uniform(35, 60)
    return base + contrast, base - contrast


def _ground(rng, height, width):
    coarse = rng.uniform(40, 215, (4, 4, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(
        rng.normal(0, 14, (height // 3, width // 3, 1)).astype(np.float32), (width, height)
    )
    return 0.6 * smooth + 0.4 * smooth.mean((0, 1)) + grain[..., None]


def _saliency(rng, strength):
    height, width = strength.shape
    faulty = strength.copy()
    if rng.random() < 0.3:  # Adds a false blob.
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(
            faulty,
            centre,
            int(rng.uniform(0.05, 0.12) * min(height, width)),
            float(rng.uniform(0.3, 0.8)),
            -1,
        )
    if rng.random() < 0.3:  # Removes a piece.
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(faulty, centre, int(rng.uniform(0.05, 0.15) * min(height, width)), 0.0, -1)
    return (255 * cv2.GaussianBlur(faulty, (0, 0), 1.5)).astype(np.uint8)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Builds the data set of the module.

    Args:
      seed: seed of every photo.
      sizes: (H, W), taken in turn.
      counts: {split: number of photos}.
    """

    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = features.builder_configs()

    def __init__(
        self,
        *,
        seed: int = 0,
        sizes: Sequence[tuple[int, int]] = ((64, 64),),
        counts: dict[str, int] | None = None,
        **kwargs,
    ):
        self._seed, self._sizes, self._counts = seed, [tuple(s) for s in sizes], counts or {}
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.dataset_info(self, CLASSES, "png", PLANES)

    def _split_generators(self, dl_manager) -> dict:
        return {
            split: self._generate_examples(split, count) for split, count in self._counts.items()
        }

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict]]:
        for index in range(count):
            rng = np.random.default_rng([self._seed, zlib.crc32(split.encode()), index])
            photo = render(rng, *self._sizes[index % len(self._sizes)])
            name = f"{split}_{index:05d}"
            if self.builder_config.name == features.MASKS:
                yield name, {"id": name, "segmentation": encode_png(photo["segmentation"])}
            else:
                example = {
                    "id": name,
                    "labels": photo["labels"],
                    "size": np.array(photo["image"].shape[:2], np.int32),
                    **{key: encode_png(photo[key]) for key in ("image", *PLANES)},
                }
                yield name, example
