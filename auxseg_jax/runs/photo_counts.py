"""How right each photo of a finished run is, for intervals and for the photos to look at."""

from collections.abc import Callable

import numpy as np

from auxseg_jax.data import pseudo_labels
from auxseg_jax.data.dataset import Dataset
from auxseg_jax.evaluation import intervals
from auxseg_jax.files import file_sets, images
from auxseg_jax.runs.workdir import CAM, Workdir

VAL, POST, LABELS = "val", "val_post", "labels"
MEASURES = {
    VAL: "val mIoU",
    POST: "val mIoU, post-processed",
    LABELS: "pseudo labels of train, 255 as a miss",
}
"""{measure: heading}: predictions of the last stage for val, and the last pseudo labels."""


def of_run(workdir: Workdir, data: Dataset) -> dict[str, intervals.Counts]:
    """Returns {measure: counts of each photo}, as far as the splits have masks.

    Args:
      workdir: of a finished run.
      data: its data.
    """
    stage = workdir.trained_stages()[-1]
    found = {}
    for measure, phase in ((VAL, f"{stage}/val"), (POST, f"{stage}/post")):
        if data.has_masks(data.val_split) and workdir.done(phase).exists():
            found[measure] = intervals.count(_predictions(workdir, phase), data, data.val_split)
    phase = f"{stage}/pseudo" if workdir.done(f"{stage}/pseudo").exists() else CAM
    if data.has_masks(data.train_split) and workdir.done(phase).exists():
        files = file_sets.reader(workdir.labels(phase))

        def read(name: str) -> np.ndarray:
            return pseudo_labels.read(files, name, ["segmentation"])["segmentation"]

        found[LABELS] = intervals.count(read, data, data.train_split)
    return found


def _predictions(workdir: Workdir, phase: str) -> Callable[[str], np.ndarray]:
    folder = workdir.folder(phase)
    return lambda name: images.read_plane(folder / f"{name}.png")
