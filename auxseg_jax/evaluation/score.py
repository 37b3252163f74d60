"""Scores folders of PNGs against the pixel labels of a split. The only reader of pixel labels in a weakly supervised run."""

from typing import Any

import numpy as np
from etils import epath

from auxseg_jax import files
from auxseg_jax.data.dataset import Dataset
from auxseg_jax.evaluation import metrics


def score_predictions(directory: epath.PathLike, dataset: Dataset, split: str) -> dict[str, Any]:
    """{"val_miou", "per_class": {class: IoU or None}} of <directory>/<id>.png, percent."""
    counts = np.zeros((len(dataset.classes), len(dataset.classes) + 1), np.int64)
    for name, truth in dataset.masks(split):
        prediction = files.read_plane(epath.Path(directory) / f"{name}.png")
        counts += _named(name, metrics.confusion, prediction, truth, len(dataset.classes))
    scores = metrics.iou_scores(counts)
    return {"val_miou": scores["miou_255_as_miss"], "per_class": dict(zip(dataset.classes, scores["per_class"], strict=True))}


def score_pseudo(directory: epath.PathLike, dataset: Dataset, split: str) -> dict[str, float]:
    """Scores of pseudo labels <directory>/{segmentation,saliency}/<id>.png: both conventions for 255, and the saliency's."""
    counts = np.zeros((len(dataset.classes), len(dataset.classes) + 1), np.int64)
    saliency = metrics.SaliencyScore()
    for name, truth in dataset.masks(split):
        labels, grey = (files.read_plane(epath.Path(directory) / kind / f"{name}.png") for kind in ("segmentation", "saliency"))
        counts += _named(name, metrics.confusion, labels, truth, len(dataset.classes))
        saliency.add(grey, truth)
    scores = metrics.iou_scores(counts)
    scores.pop("per_class")
    return scores | saliency.result()


def _named(name: str, function, *arguments):
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
