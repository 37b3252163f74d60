"""Metrics, as sums that add over photos and hosts and are divided once. Figures in percent."""

from collections.abc import Sequence

import numpy as np

from auxseg_jax.errors import UserError
from auxseg_jax.evaluation.scores import LabelScore, SaliencyScore
from auxseg_jax.pixel_labels import IGNORE


def confusion(prediction: np.ndarray, truth: np.ndarray, num_labels: int) -> np.ndarray:
    """Counts pixels, int64 [num_labels, num_labels + 1].

    Rows are the true label, columns the predicted one; the last column is 255 in the prediction.
    Pixels whose truth is 255 are left out.

    Raises:
      UserError: shapes differ, or a label is neither below `num_labels` nor 255.
    """
    _, rows, columns = _labelled(prediction, truth)
    columns = np.where(columns == IGNORE, num_labels, columns)
    if rows.size and (rows.max() >= num_labels or columns.max() > num_labels):
        raise UserError(f"labels reach {max(rows.max(), columns.max())}, there are {num_labels}")
    width = num_labels + 1
    return np.bincount(rows * width + columns, minlength=num_labels * width).reshape(
        num_labels, width
    )


def confusion_by_bin(
    prediction: np.ndarray, bins: np.ndarray, truth: np.ndarray, num_labels: int, num_bins: int
) -> np.ndarray:
    """Counts pixels, int64 [num_labels, num_labels, num_bins].

    The axes are true label, predicted label, and the bin [H, W] that a pixel is in. Pixels whose
    truth is 255 are left out.

    Raises:
      UserError: shapes differ, or a label is not below `num_labels`.
    """
    if bins.shape != truth.shape:
        raise UserError(f"bins are {bins.shape}, truth {truth.shape}")
    counts, rows, columns = _labelled(prediction, truth)
    if rows.size and max(rows.max(), columns.max()) >= num_labels:
        raise UserError(f"labels reach {max(rows.max(), columns.max())}, there are {num_labels}")
    index = (rows * num_labels + columns) * num_bins + bins[counts]
    return np.bincount(index, minlength=num_labels**2 * num_bins).reshape(
        num_labels, num_labels, num_bins
    )


def _labelled(
    prediction: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where the truth is not 255, and the true and the predicted labels there."""
    if prediction.shape != truth.shape:
        raise UserError(f"prediction is {prediction.shape}, truth {truth.shape}")
    counts = truth != IGNORE
    return counts, truth[counts].astype(np.int64), prediction[counts].astype(np.int64)


def iou_scores(counts: np.ndarray, classes: Sequence[str]) -> LabelScore:
    """Returns the scores of a `confusion` matrix.

    Labels with neither truth nor prediction are left out of every mean.

    Args:
      counts: the matrix.
      classes: names of the labels.
    """
    square = counts[:, :-1].astype(np.float64)
    hits = np.diag(square)
    predicted, labelled = square.sum(0), square.sum(1)
    true = counts.sum(1).astype(np.float64)
    strict = _ratio(hits, true + predicted - hits)
    return LabelScore(
        miou=_mean(_ratio(hits, labelled + predicted - hits)),
        miou_255_as_miss=_mean(strict),
        precision=_mean(_ratio(hits, predicted)),
        recall=_mean(_ratio(hits, true)),
        per_class={
            name: None if np.isnan(value) else float(value)
            for name, value in zip(classes, strict, strict=True)
        },
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns percent; NaN where there is nothing to divide by."""
    return np.divide(100.0 * part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the area under the precision-recall steps of one class.

    Photos of equal score enter together, so the result does not depend on their order.

    Args:
      scores: [P].
      labels: [P], 0 or 1.

    Returns:
      Percent; NaN without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order] > 0)[ends]
    if hits.size == 0 or hits[-1] == 0:
        return float("nan")
    return float(100 * np.sum(np.diff(hits, prepend=0) * hits / (ends + 1)) / hits[-1])


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean `average_precision` of the classes that occur; scores and labels [P, C]."""
    columns = zip(scores.T, labels.T, strict=True)
    return _mean(np.array([average_precision(*column) for column in columns]))


class SaliencySums:
    """Sums for the mean absolute error and the maximal F measure of saliency maps.

    Precision and recall are averaged over the photos that have foreground, at each of the 255
    thresholds.

    Attributes:
      sums: numpy arrays that add up over photos and hosts: error, photos, with_object, precision
        [255], recall [255].
    """

    def __init__(self):
        self.sums = {name: np.zeros(()) for name in ("error", "photos", "with_object")}
        self.sums |= {name: np.zeros(255) for name in ("precision", "recall")}

    def add(self, saliency: np.ndarray, truth: np.ndarray) -> None:
        """Adds one photo.

        Args:
          saliency: uint8 [H, W].
          truth: pixel labels [H, W]; 0 is background, 255 is left out.
        """
        counts = truth != IGNORE
        if not counts.any():
            return
        values, is_object = saliency[counts], truth[counts] > 0
        self.sums["error"] += np.abs(values / 255 - is_object).mean()
        self.sums["photos"] += 1
        if not is_object.any():
            return
        # Counts of values >= 255, 254, ..., 1.
        hits = np.bincount(values[is_object], minlength=256)[::-1].cumsum()[:255]
        selected = np.bincount(values, minlength=256)[::-1].cumsum()[:255]
        self.sums["precision"] += hits / np.maximum(selected, 1)
        self.sums["recall"] += hits / is_object.sum()
        self.sums["with_object"] += 1

    def result(self) -> SaliencyScore:
        """Returns the score of the photos so far."""
        photos, with_object = (max(self.sums[key], 1) for key in ("photos", "with_object"))
        precision, recall = (self.sums[key] / with_object for key in ("precision", "recall"))
        f_measure = 1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-12)
        error = float(100 * self.sums["error"] / photos)
        return SaliencyScore(error, float(100 * f_measure.max()))
