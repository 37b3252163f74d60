"""How sure a difference of mIoU is: the paired bootstrap over photos and seeds.

Two runs that see the same photos are compared on the same draws of them, for photos differ far more
than runs. Where there are several seeds they are drawn too, in pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from auxseg_jax.devices import hosts

_DRAWS = 2000
_BLOCK = 100  # Draws that are worked out together.
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


def of_confusion(counts: np.ndarray) -> np.ndarray:
    """Returns hits, predicted and true pixels of each label, int64 [L, 3].

    Args:
      counts: see `metrics.confusion`.
    """
    hits = np.diag(counts[:, :-1])
    return np.stack([hits, counts[:, :-1].sum(0), counts.sum(1)], 1)


def gather(ids: Sequence[str], pixels: np.ndarray) -> Counts:
    """Returns the counts of the photos of all processes, in the order of their ids."""
    names = np.frombuffer("".join(f"{name}\n" for name in ids).encode(), np.uint8)
    every = hosts.concatenated(names).tobytes().decode().split("\n")[:-1]
    pixels = hosts.concatenated(pixels.astype(np.int64))
    order = sorted(range(len(every)), key=every.__getitem__)
    return Counts(tuple(every[k] for k in order), pixels[order])


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
      ValueError: their shapes differ.
    """
    pairs = np.stack([np.stack(ours), np.stack(others)]).astype(np.float64)  # [2, S, P, L, 3]
    seeds, photos, labels = pairs.shape[1:4]
    random = np.random.default_rng(seed)
    means = mean_iou(pairs.sum(2)).mean(1)
    flat = pairs.reshape(2 * seeds, photos, -1)
    found = np.empty(draws)
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        chosen = random.integers(photos, size=(size, photos))
        weights = np.stack([np.bincount(row, minlength=photos) for row in chosen]).astype(float)
        sums = np.stack([weights @ run for run in flat])  # [2 S, draws, 3 L]
        miou = mean_iou(sums.reshape(2, seeds, size, labels, 3))
        drawn = random.integers(seeds, size=(size, seeds))
        picked = miou[:, drawn.T, np.arange(size)].mean(1)
        found[start : start + size] = picked[0] - picked[1]
    tail = (100 - _LEVEL) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Interval(float(means[0] - means[1]), float(low), float(high))
