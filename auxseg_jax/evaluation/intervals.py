"""How sure a difference of mIoU is: the paired bootstrap over photos and seeds.

Two runs that see the same photos are compared on the same draws of them, for photos differ far more
than runs. Where there are several seeds they are drawn too, in pairs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from auxseg_jax.data.dataset import Dataset
from auxseg_jax.errors import UserError
from auxseg_jax.pixel_labels import IGNORE

_DRAWS = 2000
_LEVEL = 95  # Percent of the draws that an interval holds.


class Counts(NamedTuple):
    """Pixels of each photo, from which any mean over photos follows.

    Attributes:
      ids: ids of the P photos.
      pixels: int64 [P, L, 3]: of each label hits, predicted pixels and true pixels. 255 in the
        prediction counts as missed.
    """

    ids: tuple[str, ...]
    pixels: np.ndarray


class Interval(NamedTuple):
    """A difference of mIoU, percent.

    Attributes:
      difference: of the means over the seeds.
      low: lower end of the 95% interval.
      high: its upper end.
    """

    difference: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high


def count(read_labels: Callable[[str], np.ndarray], dataset: Dataset, split: str) -> Counts:
    """Counts the pixels of every photo of a split that has a mask.

    Args:
      read_labels: id -> predicted labels, uint8 [H, W].
      dataset: the data set.
      split: name of the split.
    """
    ids, pixels = [], []
    for name, truth in dataset.masks(split):
        ids.append(name)
        pixels.append(count_photo(read_labels(name), truth, len(dataset.classes)))
    return Counts(tuple(ids), np.stack(pixels))


def count_photo(prediction: np.ndarray, truth: np.ndarray, num_labels: int) -> np.ndarray:
    """Returns hits, predicted and true pixels of each label, int64 [L, 3].

    Args:
      prediction: uint8 [H, W].
      truth: uint8 [H, W]; pixels of 255 are left out.
      num_labels: L.
    """
    if prediction.shape != truth.shape:
        raise UserError(f"prediction is {prediction.shape}, truth {truth.shape}")
    known = truth != IGNORE
    of = [truth[known & (truth == prediction)], prediction[known], truth[known]]
    return np.stack([np.bincount(labels, minlength=256)[:num_labels] for labels in of], 1)


def mean_iou(pixels: np.ndarray) -> np.ndarray:
    """Returns the mIoU in percent of sums [..., L, 3] over photos, as `metrics.iou_scores` has it.

    Labels with neither truth nor prediction are left out.
    """
    hits, predicted, true = np.moveaxis(pixels.astype(np.float64), -1, 0)
    union = predicted + true - hits
    present = union > 0
    iou = np.divide(100 * hits, union, out=np.zeros_like(union), where=present)
    return iou.sum(-1) / np.maximum(present.sum(-1), 1)


def compare(
    ours: Sequence[np.ndarray], others: Sequence[np.ndarray], seed: int = 0, draws: int = _DRAWS
) -> Interval:
    """Returns the difference of mIoU, ours less the others', with its interval.

    Args:
      ours: `Counts.pixels` of the run of each seed, of the same photos in the same order.
      others: of the same seeds in the same order.
      seed: seed of the draws.
      draws: number of draws.

    Raises:
      ValueError: they are not of the same photos or seeds.
    """
    pairs = np.stack([np.stack(ours), np.stack(others)])  # [2, S, P, L, 3]
    seeds, photos = pairs.shape[1:3]
    random = np.random.default_rng(seed)
    means = mean_iou(pairs.sum(2)).mean(1)
    found = np.empty(draws)
    flat = pairs.reshape(2, seeds, photos, -1).astype(np.float64)
    for k in range(draws):
        weights = np.bincount(random.integers(photos, size=photos), minlength=photos)
        drawn = random.integers(seeds, size=seeds)
        sums = np.einsum("p,ksp...->ks...", weights, flat[:, drawn])
        miou = mean_iou(sums.reshape(2, seeds, *pairs.shape[3:])).mean(1)
        found[k] = miou[0] - miou[1]
    tail = (100 - _LEVEL) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(float(means[0] - means[1]), float(low), float(high))
