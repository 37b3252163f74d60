"""Scores folders of PNGs against the pixel labels of a split.

It is the only reader of pixel labels in a weakly supervised run. With several processes each reads
its share of the photos, and the sums are added.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.data import pseudo_labels
from auxseg_jax.data.dataset import SCORE, SWEEP, Dataset
from auxseg_jax.devices import hosts
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import cams, details, intervals, metrics, scores
from auxseg_jax.files import file_sets, images

_THRESHOLDS = [round(0.05 * k, 2) for k in range(1, 20)]

ReadPlane = Callable[[str], np.ndarray]
"""Photo's id -> uint8 [H, W]."""

ReadCam = Callable[[str, tuple[int, int]], tuple[np.ndarray, np.ndarray]]
"""(photo's id, (H, W)) -> (largest class uint8 [H, W], its score [H, W] in 0..255)."""


def score_predictions(
    labels: epath.PathLike, saliency: epath.PathLike, dataset: Dataset, split: str
) -> tuple[scores.PredictionScore, details.Details]:
    """Scores the predictions of a split.

    Args:
      labels: folder of <id>.png, class indices; and perhaps of what `details.Certainties` reads.
      saliency: folder of <id>.png, greys; it may be absent.
      dataset: the data set.
      split: name of the split.

    Returns:
      The score, and what lies behind it.
    """
    maps = _reader(saliency) if epath.Path(saliency).exists() else None
    certainties = details.Certainties(labels, len(dataset.classes))
    label_score, saliency_score, behind = _score(
        _reader(labels), maps, dataset, split, also=certainties.add
    )
    figures = scores.to_json(saliency_score) if saliency_score else {}
    miou, per_class = label_score.miou_255_as_miss, label_score.per_class
    found = certainties.result()
    return scores.PredictionScore(miou, per_class, **figures), behind._replace(certainty=found)


def score_pseudo(
    folder: epath.PathLike, dataset: Dataset, split: str
) -> tuple[scores.PseudoScore, details.Details]:
    """Scores a set of pseudo labels, see `data.pseudo_labels`; see `score_predictions`."""
    files = file_sets.reader(folder)

    def reader(kind: str) -> ReadPlane:
        return lambda name: pseudo_labels.read(files, name, [kind])[kind]

    label_score, saliency_score, behind = _score(
        reader("segmentation"), reader("saliency"), dataset, split
    )
    score = scores.PseudoScore(
        miou=label_score.miou,
        miou_255_as_miss=label_score.miou_255_as_miss,
        precision=label_score.precision,
        recall=label_score.recall,
        **scores.to_json(saliency_score),
    )
    return score, behind


def sweep_cam(folder: epath.PathLike, dataset: Dataset, split: str) -> scores.CamSweep:
    """Sweeps the threshold of the CAMs from which initial labels were made.

    Args:
      folder: the set of initial labels, with cam_class and cam_score.
      dataset: the data set.
      split: name of the split.
    """
    files, maps = file_sets.reader(folder), ("cam_class", "cam_score")

    def read(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        del size  # They are of the photo's size.
        return tuple(pseudo_labels.read(files, name, maps).values())

    return _sweep(read, dataset, split)


def score_folder(
    directory: epath.PathLike, dataset: Dataset, split: str
) -> scores.FolderScore | scores.CamSweep:
    """Scores anybody's predictions or pseudo labels, or anybody's CAMs.

    Args:
      directory: folder of <id>.png (labels), or of <id>.npy or <id>.npz (CAMs, see `cams.read`).
      dataset: the data set.
      split: name of the split.

    Raises:
      UserError: there is no folder, or no file for a photo of the split; or a file is broken, or of
        another size.
    """
    directory = epath.Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such folder")
    names = {path.name for path in directory.iterdir()}
    wanted = dataset.mask_names(split)
    present = {
        ending: sum(f"{name}{ending}" in names for name in wanted)
        for ending in (".png", ".npy", ".npz")
    }
    ending = max(present, key=present.get)
    absent = [name for name in wanted if f"{name}{ending}" not in names]
    if absent:
        raise UserError(
            f"{directory}: {len(absent)} of the {len(wanted)} photos of {split} "
            f"have no {ending} there, {absent[0]} first"
        )
    if ending == ".png":
        read_labels = _reader(directory, len(dataset.classes))
        label_score, *_ = _score(read_labels, None, dataset, split, refuse_binary=True)
        return scores.FolderScore(**scores.to_json(label_score), photos=len(wanted))

    def read(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return cams.read(directory / f"{name}{ending}", dataset.num_classes, size)

    return _sweep(read, dataset, split, photos=len(wanted))


def _reader(folder: epath.PathLike, num_labels: int | None = None) -> ReadPlane:
    return lambda name: images.read_plane(epath.Path(folder) / f"{name}.png", num_labels)


def _score(
    read_labels: ReadPlane,
    read_saliency: ReadPlane | None,
    dataset: Dataset,
    split: str,
    refuse_binary: bool = False,
    also: Callable[[str, np.ndarray, np.ndarray, np.ndarray], None] | None = None,
) -> tuple[scores.LabelScore, scores.SaliencyScore | None, details.Details]:
    labels = len(dataset.classes)
    counts = np.zeros((labels, labels + 1), np.int64)
    saliency = metrics.SaliencySums()
    ids, pixels = [], [np.zeros((0, labels, 3), np.int64)]
    for name, truth in dataset.masks(split, SCORE, hosts.share()):
        prediction = read_labels(name)
        of_photo = _naming(name, metrics.confusion, prediction, truth, labels)
        counts += of_photo
        ids.append(name)
        pixels.append(intervals.of_confusion(of_photo)[None])
        if read_saliency:
            saliency.add(read_saliency(name), truth)
        if also:
            also(name, prediction, truth, pixels[-1][0])
    counts = hosts.total(counts)
    if refuse_binary and counts[:, -1].any() and not counts[:, 1:-1].any():
        raise UserError(
            f"the label maps of {split} hold 0 and 255 alone; 255 means 'no label' here, and class "
            "k is written as k. For a single class write 1 in place of 255"
        )
    label_score = metrics.iou_scores(counts, dataset.classes)
    saliency.sums = hosts.total(saliency.sums)
    photos = intervals.gather(ids, np.concatenate(pixels))
    behind = details.Details(photos, counts)
    return label_score, saliency.result() if read_saliency else None, behind


def _sweep(
    read: ReadCam, dataset: Dataset, split: str, photos: int | None = None
) -> scores.CamSweep:
    labels = len(dataset.classes)
    pixels = np.zeros((labels, labels, len(_THRESHOLDS) + 1), np.int64)
    for name, truth in dataset.masks(split, SWEEP, hosts.share()):
        classes, score = _naming(name, read, name, truth.shape)
        pixels += _naming(name, cam_pixels, classes, score, truth, labels)
    return cam_sweep(hosts.total(pixels), dataset.classes, photos)


def cam_pixels(
    classes: np.ndarray, score: np.ndarray, truth: np.ndarray, num_labels: int
) -> np.ndarray:
    """Counts the pixels of a photo's CAM, for `cam_sweep`.

    Args:
      classes: the class of the largest CAM, uint8 [H, W].
      score: that CAM, [H, W] in 0..255.
      truth: uint8 [H, W].
      num_labels: L.

    Returns:
      int64 [L, L, T + 1]: pixels by their truth, their class, and the number of thresholds that
      their score is above.
    """
    above = np.searchsorted(255 * np.array(_THRESHOLDS), score)
    return metrics.confusion_by_bin(classes, above, truth, num_labels, len(_THRESHOLDS) + 1)


def cam_sweep(
    pixels: np.ndarray, classes: Sequence[str], photos: int | None = None
) -> scores.CamSweep:
    """Returns the mIoU at each threshold of a sum of `cam_pixels`."""
    miou = []
    for k in range(len(_THRESHOLDS)):
        counts = np.zeros((len(classes), len(classes) + 1), np.int64)
        counts[:, :-1] = pixels[:, :, k + 1 :].sum(-1)
        counts[:, 0] += pixels[:, :, : k + 1].sum((1, 2))
        miou.append(metrics.iou_scores(counts, classes).miou)
    best = int(np.argmax(miou))
    by_threshold = dict(zip(map(str, _THRESHOLDS), miou, strict=True))
    return scores.CamSweep(True, _THRESHOLDS[best], miou[best], by_threshold, photos)


def _naming(name: str, function: Callable, *arguments: Any) -> Any:
    """Calls a function; its errors name the photo."""
    try:
        return function(*arguments)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
