"""What can be said of photos that have no masks: how much agrees, and a sheet of pictures."""

import threading
from typing import Any

import numpy as np

from auxseg_jax.data import dataset as data_lib
from auxseg_jax.data import features, pseudo_labels
from auxseg_jax.devices import hosts
from auxseg_jax.evaluation import scores
from auxseg_jax.files import file_sets, images
from auxseg_jax.inference import contact_sheet, passes
from auxseg_jax.pixel_labels import BACKGROUND, IGNORE
from auxseg_jax.runs import readers
from auxseg_jax.runs.context import Context
from auxseg_jax.runs.phase import Phase

_PHOTOS = 48
_NAMED = 5


def review(context: Context, phase: Phase) -> scores.ReviewScore:
    """Compares what a stage predicts for training photos with the labels that it learned.

    Up to 48 photos are taken, evenly over the data. Those that agree least come first on the sheet.
    """
    data = context.data
    photos, sizes = data.photos(data.train_split), data.sizes(data.train_split)
    chosen = data_lib.evenly(len(photos), _PHOTOS)
    reader = readers.photo_reader(
        context.config, [photos[k] for k in chosen], [sizes[k] for k in chosen], context.local.size
    )
    files = file_sets.reader(context.workdir.labels(phase.needs["labels"]))
    images_of = {photos[k]["id"].decode(): photos[k]["image"] for k in chosen}
    cells: dict[str, Any] = {}
    agreements: dict[str, float] = {}
    overlaps: dict[str, float] = {}
    used: set[int] = set()
    lock = threading.Lock()

    def keep(name: str, maps: dict[str, np.ndarray]) -> None:
        learned = pseudo_labels.read(files, name)
        photo = features.decode_image(images_of[name])
        entry = contact_sheet.Entry(name, photo, learned["segmentation"], maps["labels"])
        cell = contact_sheet.draw_one(entry)
        with lock:
            cells[name] = cell
            agreements[name] = agreement(entry.prediction, entry.pseudo)
            overlaps[name] = _iou(maps["labels"] != BACKGROUND, learned["saliency"] > 127)
            used.update(np.unique(entry.pseudo).tolist(), np.unique(entry.prediction).tolist())

    params = context.stage_params(phase.needs["weights"])
    passes.run("review", context.segmentation, params, reader, keep, context.local)
    order = sorted(cells, key=lambda name: (agreements[name], name))
    sheet = contact_sheet.draw(
        [cells[name] for name in order],
        used,
        data.classes,
        "Training photos: photo, pseudo label, prediction. Those that agree least come first.",
    )
    hosts.by_first(lambda: images.write_jpeg(context.workdir.sheet(phase.name), sheet))
    return scores.ReviewScore(
        photos=len(cells),
        agreement=100 * float(np.mean(list(agreements.values()))),
        saliency_iou=100 * float(np.mean(list(overlaps.values()))),
        least_certain=order[:_NAMED],
    )


def agreement(prediction: np.ndarray, pseudo: np.ndarray) -> float:
    """Returns the mean IoU of two label maps, uint8 [H, W], over the labels of either.

    Pixels without a pseudo label are left out.
    """
    known = pseudo != IGNORE
    labels = np.union1d(prediction[known], pseudo[known])
    ious = [_iou(prediction[known] == label, pseudo[known] == label) for label in labels]
    return float(np.mean(ious)) if ious else 1.0


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
