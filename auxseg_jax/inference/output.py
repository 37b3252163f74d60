"""Writes predictions as files: <folder>/<id>.png, and a folder for each map that is shown.

<id>.png           labels, indexed with VOC's palette, of the photo's size
overlay/<id>.jpg   the photo under the colours of its labels, with a legend
certainty/<id>.png grey, the largest probability
saliency/<id>.png  grey
cam/<id>.<class>.png   grey, of the classes to which the classification branch gives more than 0.5
affinity/<id>.png  grey, what one pixel looks at, the largest entry white
"""

import csv
import io
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from auxseg_jax.files import images, storage
from auxseg_jax.inference import contact_sheet
from auxseg_jax.pixel_labels import palette

FOLDERS = {
    "overlay": ".jpg",
    "certainty": ".png",
    "saliency": ".png",
    "cam": ".png",
    "affinity": ".png",
}
"""{folder: ending} of the maps that can be written."""


CLASSES = "classes.csv"


def write(
    folder: epath.PathLike, name: str, maps: dict[str, np.ndarray], classes: Sequence[str] = ()
) -> None:
    """Writes one photo's prediction.

    Args:
      folder: where.
      name: id of the photo.
      maps: one photo's arrays of what `segmentation.segment` returns.
      classes: names, background first, for overlays and the files of CAMs.
    """
    folder = epath.Path(folder)
    images.write_label_png(folder / f"{name}.png", maps["labels"])
    if "photo" in maps:
        picture = contact_sheet.overlay(maps["photo"], maps["labels"])
        picture = contact_sheet.with_legend(picture, np.unique(maps["labels"]).tolist(), classes)
        images.write_jpeg(folder / "overlay" / f"{name}.jpg", picture)
    if "initial" in maps:
        images.write_label_png(folder / "initial" / f"{name}.png", maps["initial"])
    for kind in ("certainty", "saliency", "affinity"):
        if kind in maps:
            images.write_grey_png(folder / kind / f"{name}.png", _grey(maps[kind]))
    for index in np.flatnonzero(maps.get("present", ())):
        path = folder / "cam" / f"{name}.{classes[index + 1]}.png"
        images.write_grey_png(path, _grey(maps["cam"][..., index]))


def resize(maps: dict[str, np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Scales one photo's maps to (H, W): labels by the nearest pixel, all else linearly."""
    resized = dict(maps)
    known = {"labels", "photo", "certainty", "saliency", "cam", "affinity", "probabilities"}
    for name in maps.keys() & known:
        mode = cv2.INTER_NEAREST if name == "labels" else cv2.INTER_LINEAR
        scaled = cv2.resize(maps[name], size[::-1], interpolation=mode)
        resized[name] = scaled.reshape(*size, *maps[name].shape[2:])
    return resized


def write_classes(folder: epath.PathLike, classes: Sequence[str]) -> None:
    """Writes <folder>/classes.csv: index, name and colour of every label."""
    table = io.StringIO()
    rows = (
        (index, name, f"#{bytes(palette()[index]).hex()}") for index, name in enumerate(classes)
    )
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("index", "class", "colour"), *rows])
    storage.write_bytes(epath.Path(folder) / CLASSES, table.getvalue().encode())


def _grey(values: np.ndarray) -> np.ndarray:
    return np.round(255 * values).astype(np.uint8)
