"""Whether a stage can learn from a set of pseudo labels at all."""

import numpy as np

from auxseg_jax.data import about
from auxseg_jax.data.dataset import Dataset
from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import say
from auxseg_jax.pixel_labels import BACKGROUND, IGNORE

_LEAST_PHOTOS = 5
"""A class of fewer photos may fail to be labelled without anything being wrong."""

_REASONS = (
    "the reasons may be saliency maps that are dark or of other photos (look at them), CAMs that "
    "found nothing (classifier.epochs; val mAP), or thresholds (fuse.cam_threshold, "
    "fuse.saliency_threshold)"
)


def check(pixels: np.ndarray, data: Dataset, strict: bool) -> None:
    """Checks how many pixels of the training photos have each label.

    Args:
      pixels: int64 [256], number of pixels of each label, over all photos.
      data: the data set.
      strict: whether it ends the run, the config's `data.strict`; otherwise it is only said.

    Raises:
      UserError: no pixel has a class, or a class that several photos have is nowhere.
    """
    split = about.read(data.directory).splits[data.train_split]
    total = max(int(pixels.sum()), 1)
    held = (
        f"{100 * pixels[BACKGROUND] / total:.0f}% of their pixels are background and "
        f"{100 * pixels[IGNORE] / total:.0f}% have no label"
    )
    absent = [
        (name, photos)
        for name, photos, count in zip(
            data.classes[1:], split.of_class, pixels[1 : len(data.classes)], strict=True
        )
        if photos and not count
    ]
    if not absent:
        return
    listed = ", ".join(f"{name} ({photos} photos)" for name, photos in absent)
    message = f"no pixel of the pseudo labels has the class {listed}: {held}; {_REASONS}"
    is_empty = not pixels[1 : len(data.classes)].any()
    if strict and (is_empty or max(photos for _, photos in absent) >= _LEAST_PHOTOS):
        raise UserError(f"{message}. To go on without: --config.data.strict=False")
    say(f"note: {message}")
