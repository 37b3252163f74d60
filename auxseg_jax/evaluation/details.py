"""What lies behind the score of a set of label maps, for reports and intervals.

<phase>/photos.npz      pixels of each photo: ids, and hits, predicted and true pixels of each label
<phase>/details.json    the confusion matrix, and what is known of certainty
"""

import zipfile
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from auxseg_jax.devices import hosts
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import intervals, metrics
from auxseg_jax.files import images, storage
from auxseg_jax.pixel_labels import IGNORE

CERTAINTY, INITIAL = "certainty", "initial"
"""Folders beside predictions: the largest probability of each pixel, grey, and the labels of the
prediction before it is refined. Only some photos have them."""

_BINS = 10
_PHOTOS, _DETAILS = "photos.npz", "details.json"


class Details(NamedTuple):
    """What lies behind a score.

    Attributes:
      photos: pixels of each photo.
      confusion: int64 [L, L + 1], see `metrics.confusion`.
      certainty: see `Certainties.result`; None where nothing is known.
    """

    photos: intervals.Counts
    confusion: np.ndarray
    certainty: dict[str, Any] | None = None


class Certainties:
    """Compares how certain a prediction is with how right it is, and it with the initial one.

    Args:
      folder: of the predictions, with the folders CERTAINTY and INITIAL.
      num_labels: L.
    """

    def __init__(self, folder: epath.PathLike, num_labels: int):
        self._folder, self._labels = epath.Path(folder), num_labels
        self._bins = np.zeros((_BINS, 3))  # Pixels, right ones, sum of the certainty.
        self._pixels = np.zeros((2, num_labels, 3), np.int64)  # Initial, final.
        self._photos = 0

    def add(self, name: str, prediction: np.ndarray, truth: np.ndarray, pixels: np.ndarray) -> None:
        """Adds a photo, if its certainty was kept.

        Args:
          name: its id.
          prediction: uint8 [H, W].
          truth: uint8 [H, W].
          pixels: `intervals.of_confusion` of the two.
        """
        path = self._folder / CERTAINTY / f"{name}.png"
        if not path.exists():
            return
        known = truth != IGNORE
        certainty = images.read_plane(path)[known] / 255
        is_right = (prediction == truth)[known]
        bins = np.minimum((certainty * _BINS).astype(int), _BINS - 1)
        for column, weights in enumerate((None, is_right, certainty)):
            self._bins[:, column] += np.bincount(bins, weights, minlength=_BINS)
        self._photos += 1
        initial = self._folder / INITIAL / f"{name}.png"
        if initial.exists():
            counts = metrics.confusion(images.read_plane(initial), truth, self._labels)
            self._pixels += np.stack([intervals.of_confusion(counts), pixels])

    def result(self) -> dict[str, Any] | None:
        """Returns the figures of the photos whose certainty was kept; None if there are none.

        photos: their number. bins: of each tenth of certainty [share of the pixels, mean certainty,
        share that is right], percent. error: expected calibration error, percent (Guo et al., arXiv
        1706.04599). initial_miou and miou: of the initial and of the final prediction of them.
        """
        photos = int(hosts.total(np.array(self._photos)))
        bins, pixels = hosts.total(self._bins), hosts.total(self._pixels)
        if not photos or not bins.sum():
            return None
        count = np.maximum(bins[:, 0], 1)
        share = bins[:, 0] / bins[:, 0].sum()
        right, certainty = bins[:, 1] / count, bins[:, 2] / count
        found: dict[str, Any] = {
            "photos": photos,
            "bins": np.round(100 * np.stack([share, certainty, right], 1), 2).tolist(),
            "error": round(float(100 * (share * np.abs(right - certainty)).sum()), 2),
        }
        if pixels.any():
            initial, final = intervals.mean_iou(pixels)
            found |= {"initial_miou": float(initial), "miou": float(final)}
        return found


def write(folder: epath.Path, details: Details) -> None:
    """Writes both files, of several processes by the first."""

    def write_files() -> None:
        ids, pixels = details.photos
        arrays = {"ids": np.array(ids, np.str_), "pixels": pixels.astype(np.int32)}
        storage.write_npz(folder / _PHOTOS, arrays, compress=True)
        content = {"confusion": details.confusion.tolist(), "certainty": details.certainty}
        storage.write_json(folder / _DETAILS, content)

    hosts.by_first(write_files)


def read(folder: epath.PathLike) -> Details | None:
    """Reads what a phase left; None if it left nothing, as versions before 0.5 do.

    Raises:
      UserError: a file is damaged.
    """
    folder = epath.Path(folder)
    if not (folder / _PHOTOS).exists() or not (folder / _DETAILS).exists():
        return None
    try:
        with storage.open_npz(folder / _PHOTOS) as stored:
            ids, pixels = tuple(stored["ids"].tolist()), stored["pixels"].astype(np.int64)
        content = storage.read_json(folder / _DETAILS)
        confusion = np.array(content["confusion"], np.int64)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{folder} is damaged; delete it, and `auxseg train` with its workdir makes it again"
        ) from error
    return Details(intervals.Counts(ids, pixels), confusion, content.get("certainty"))
