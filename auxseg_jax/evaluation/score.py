"""Scores folders of PNGs against the pixel labels of a split. The only reader of pixel labels in a weakly supervised run.

Of several processes each reads its share of the photos; the sums are added.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax import files, hosts
from auxseg_jax.data.dataset import Dataset
from auxseg_jax.evaluation import cams, metrics


def score_predictions(directory: epath.PathLike, dataset: Dataset, split: str) -> dict[str, Any]:
    """{"val_miou", "per_class": {class: IoU or None}} of <directory>/<id>.png, percent; the saliency's of <directory>/saliency, if there."""
    directory = epath.Path(directory)
    saliency = directory / "saliency"
    scores, of_saliency = _score(directory, saliency if saliency.exists() else None, dataset, split)
    return {"val_miou": scores["miou_255_as_miss"], "per_class": scores["per_class"]} | of_saliency


def sweep_cam(directory: epath.PathLike, dataset: Dataset, split: str) -> dict[str, Any]:
    """`_sweep` of the CAMs <directory>/{cam_class,cam_score}/<id>.png."""

    def read(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        del size
        classes, score = (files.read_plane(epath.Path(directory) / kind / f"{name}.png") for kind in ("cam_class", "cam_score"))
        return classes, score

    return _sweep(read, dataset, split)


def score_folder(directory: epath.PathLike, dataset: Dataset, split: str) -> dict[str, Any]:
    """Scores anybody's predictions or pseudo labels <directory>/<id>.png, or CAMs <directory>/<id>.npy or .npz (see `cams.read`).

    Returns:
      Of PNGs: {"photos", "miou", "miou_255_as_miss", "precision", "recall", "per_class"}, see `metrics.iou_scores`.
      Of CAMs: {"photos"} and the threshold sweep, marked as an oracle.

    Raises:
      ValueError: there is no file of a photo of the split, a file is broken, or of another size; all missing ones are counted.
    """
    directory = epath.Path(directory)
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    wanted = dataset.mask_names(split)
    present = {ending: sum(f"{name}{ending}" in names for name in wanted) for ending in (".png", ".npy", ".npz")}
    ending = max(present, key=present.get)
    absent = [name for name in wanted if f"{name}{ending}" not in names]
    if absent:
        raise ValueError(f"{directory}: {len(absent)} of the {len(wanted)} photos of {split} have no {ending} there, {absent[0]} first")
    if ending != ".png":

        def read(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            return cams.read(directory / f"{name}{ending}", dataset.num_classes, size)

        return {"photos": len(wanted)} | _sweep(read, dataset, split)
    scores, _ = _score(directory, None, dataset, split)
    return {"photos": len(wanted)} | scores


def _sweep(read: Callable[[str, tuple[int, int]], tuple[np.ndarray, np.ndarray]], dataset: Dataset, split: str) -> dict[str, Any]:
    """mIoU of CAMs alone, where a score up to a threshold is background.

    Whoever picks the best threshold has looked at pixel labels: it is an oracle, to compare CAMs with, not to train with.

    Args:
      read: (id, (H, W)) -> (largest class uint8 [H, W], its score [H, W] in 0..255).
      dataset, split: the masks.

    Returns:
      {"oracle": True, "best_threshold", "best_miou", "miou": {threshold: percent}}, thresholds 0.05 to 0.95.
    """
    thresholds = [round(0.05 * k, 2) for k in range(1, 20)]
    labels, bins = len(dataset.classes), len(thresholds) + 1
    seen = np.zeros((labels, labels, bins), np.int64)  # pixels by their truth, their class, and how many thresholds their score is above
    for name, truth in dataset.masks(split, hosts.share()):
        classes, score = _named(name, read, name, truth.shape)
        above = np.searchsorted(255 * np.array(thresholds), score)
        seen += _named(name, metrics.confusion_by_bin, classes, above, truth, labels, bins)
    seen = hosts.total(seen)
    counts = np.zeros((len(thresholds), labels, labels + 1), np.int64)
    for k in range(len(thresholds)):
        counts[k, :, :-1] = seen[:, :, k + 1 :].sum(-1)
        counts[k, :, 0] += seen[:, :, : k + 1].sum((1, 2))
    miou = [metrics.iou_scores(c)["miou"] for c in counts]
    best = int(np.argmax(miou))
    return {"oracle": True, "best_threshold": thresholds[best], "best_miou": miou[best], "miou": dict(zip(map(str, thresholds), miou, strict=True))}


def score_pseudo(directory: epath.PathLike, dataset: Dataset, split: str) -> dict[str, float]:
    """Scores of pseudo labels <directory>/{segmentation,saliency}/<id>.png: both conventions for 255, and the saliency's."""
    directory = epath.Path(directory)
    scores, of_saliency = _score(directory / "segmentation", directory / "saliency", dataset, split)
    scores.pop("per_class")
    return scores | of_saliency


def _score(labels: epath.Path, saliency: epath.Path | None, dataset: Dataset, split: str) -> tuple[dict[str, Any], dict[str, float]]:
    """`metrics.iou_scores` of <labels>/<id>.png, its per_class by name, and the saliency's of <saliency>/<id>.png."""
    counts = np.zeros((len(dataset.classes), len(dataset.classes) + 1), np.int64)
    of_saliency = metrics.SaliencyScore()
    for name, truth in dataset.masks(split, hosts.share()):
        counts += _named(name, metrics.confusion, files.read_plane(labels / f"{name}.png"), truth, len(dataset.classes))
        if saliency:
            of_saliency.add(files.read_plane(saliency / f"{name}.png"), truth)
    scores = metrics.iou_scores(hosts.total(counts))
    of_saliency.sums = hosts.total(of_saliency.sums)
    scores["per_class"] = dict(zip(dataset.classes, scores["per_class"], strict=True))
    return scores, of_saliency.result() if saliency else {}


def _named(name: str, function, *arguments):
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
