"""Thresholds of the initial labels from photos and image labels alone, and what masks say of them.

In a photo with an image label, most of what is salient belongs to an object of a labelled class. So
the CAM threshold is the paper's, or a lower one where that leaves more than a few salient pixels
without a label. And what is not salient is background: without a doubt.
"""

import dataclasses
from typing import Any

import numpy as np

from auxseg_jax.config.validation import checked
from auxseg_jax.data import pseudo_labels
from auxseg_jax.data.dataset import SWEEP, Dataset
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import intervals
from auxseg_jax.files import file_sets
from auxseg_jax.pixel_labels import IGNORE
from auxseg_jax.runs import journal
from auxseg_jax.runs.workdir import CAM, Workdir

COVERED, PAPER, NO_DOUBT = 0.97, 0.2, 1.0
"""Share of the salient pixels that have a label, at least; the paper's CAM threshold; and the spill
threshold without doubts. The first and the last were chosen with masks of five sets in sight, see
docs/results.md: an oracle choice."""

_SALIENT = 127
_GRID = [0.01, 0.02, *(round(0.05 * k, 2) for k in range(1, 20)), 1.0]
_MAPS = ("cam_class", "cam_score", "saliency")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A pair of thresholds.

    Attributes:
      cam: `fuse.cam_threshold`.
      spill: `fuse.spill_threshold`.
      covered: share of the salient pixels of labelled photos above the first, 0..1.
      doubted: share of their other pixels above the second.
      miou: of the labels that they make, 255 as a miss; None without masks. An oracle. CAMs are
        stored in 256 levels, so it may differ by a hundredth from what a run scores.
    """

    cam: float
    spill: float
    covered: float
    doubted: float
    miou: float | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found of a run.

    Attributes:
      photos: training photos with an image label.
      present: the thresholds of the run.
      suggested: those of the rule.
      best: those of the best mIoU; None without masks. An oracle.
    """

    photos: int
    present: Choice
    suggested: Choice
    best: Choice | None = None

    @property
    def regret(self) -> float | None:
        """What the rule loses against the oracle, points of mIoU."""
        return self.best.miou - self.suggested.miou if self.best else None


def examine(folder: Workdir, oracle: bool = False) -> Found:
    """Suggests thresholds by the CAMs that a run left.

    Args:
      folder: its workdir, with the phase `cam` finished.
      oracle: whether masks are read, to say what the choice is worth.

    Raises:
      UserError: the phase or the data are missing, or there are no masks to read.
    """
    config = checked(folder.read_config())
    data = journal.open_data(folder, config)
    if not folder.done(CAM).exists() or config.supervision != "image_labels":
        raise UserError(f"{folder} has no CAMs: the phase {CAM} is not finished, or had masks")
    if data is None:
        raise UserError(f"the prepared data of {folder} are gone; `auxseg prepare` makes them")
    covered, doubted, photos = _curves(folder, data, config.fuse.saliency_threshold)
    present = config.fuse.cam_threshold, config.fuse.spill_threshold
    pairs = [present, _rule(covered)]
    score = _scores(folder, data, config.fuse) if oracle else None
    if score:
        every = [(cam, spill) for cam in _GRID for spill in _GRID if spill >= cam]
        pairs.append(max(every, key=lambda pair: score(*pair)))
    choices = [
        Choice(
            cam,
            spill,
            float(covered[_level(cam)]),
            float(doubted[_level(spill)]),
            score(cam, spill) if score else None,
        )
        for cam, spill in pairs
    ]
    return Found(photos, *choices)


def _rule(covered: np.ndarray) -> tuple[float, float]:
    fine = [round(0.01 * k, 2) for k in range(1, round(100 * PAPER) + 1)]
    return max((t for t in fine if covered[_level(t)] >= COVERED), default=fine[0]), NO_DOUBT


def _level(threshold: float) -> int:
    """Returns the largest stored score, 0..255, that is not above a threshold."""
    return int(255 * threshold)


def _curves(
    folder: Workdir, data: Dataset, saliency_threshold: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the shares above each score 0..255: of salient pixels, of the others; and photos."""
    files = file_sets.reader(folder.labels(CAM))
    covered, doubted = np.zeros(256), np.zeros(256)
    counts = np.zeros(2)
    for name in data.ids(data.train_split):
        maps = pseudo_labels.read(files, name, _MAPS)
        score, saliency = maps["cam_score"], maps["saliency"]
        if not score.any():
            continue  # A photo without any class.
        is_other = saliency <= 255 * saliency_threshold
        for k, (total, part) in enumerate(((covered, saliency > _SALIENT), (doubted, is_other))):
            if part.any():
                below = np.bincount(score[part], minlength=256).cumsum()
                total += 1 - below / below[-1]
                counts[k] += 1
    if not counts.all():
        raise UserError(f"{folder}: no photo with an image label has both salient and other pixels")
    return covered / counts[0], doubted / counts[1], int(counts.max())


def _scores(folder: Workdir, data: Dataset, options: Any) -> Any:
    """Returns (CAM threshold, spill threshold) -> mIoU of the labels that they make."""
    if not data.has_masks(data.train_split):
        raise UserError(f"the split {data.train_split!r} has no masks, so there is no oracle")
    files, labels = file_sets.reader(folder.labels(CAM)), len(data.classes)
    # Pixels by truth, class of the CAM, its score, and whether they are salient.
    pixels = np.zeros((labels, labels, 256, 2), np.int64)
    for name, truth in data.masks(data.train_split, SWEEP):
        maps = pseudo_labels.read(files, name, _MAPS)
        known = truth != IGNORE
        is_salient = maps["saliency"] > 255 * options.saliency_threshold
        if not maps["cam_score"].any() and options.empty_is_background:
            is_salient = np.zeros_like(is_salient)
        index = truth[known].astype(np.int64) * labels + maps["cam_class"][known]
        index = (index * 256 + maps["cam_score"][known]) * 2 + is_salient[known]
        pixels += np.bincount(index, minlength=pixels.size).reshape(pixels.shape)
    true = pixels.sum((1, 2, 3))

    def score(cam: float, spill: float) -> float:
        above, doubt = _level(cam) + 1, _level(spill) + 1
        objects = pixels[:, :, above:, 1].sum(2)
        background = pixels[:, :, :doubt, 0].sum((1, 2))
        predicted, hits = objects.sum(0), np.diag(objects).copy()
        predicted[0], hits[0] = background.sum(), background[0]
        return float(intervals.mean_iou(np.stack([hits, predicted, true], 1)))

    return score
