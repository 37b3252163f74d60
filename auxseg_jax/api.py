"""The functions that scripts and the command line use alike; see `auxseg_jax`."""

import dataclasses

import ml_collections
from etils import epath

from auxseg_jax.config.loading import load_config
from auxseg_jax.config.validation import checked
from auxseg_jax.data import dataset as dataset_lib
from auxseg_jax.data.planes import GIVEN, NO_FOLDER
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import scores
from auxseg_jax.evaluation.score import score_folder
from auxseg_jax.report.results import Results
from auxseg_jax.runs.journal import Journal
from auxseg_jax.runs.prediction_files import predict_files
from auxseg_jax.runs.predictor import Prediction, Predictor
from auxseg_jax.runs.run import train
from auxseg_jax.runs.workdir import enclosing

__all__ = [
    "Evaluation",
    "Prediction",
    "Predictor",
    "Results",
    "UserError",
    "evaluate",
    "load",
    "load_config",
    "predict_files",
    "train",
]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The score of a folder.

    Attributes:
      split: the split whose masks it was scored by.
      score: the score of label maps, or of CAMs.
    """

    split: str
    score: scores.FolderScore | scores.CamSweep


def load(workdir: epath.PathLike) -> Predictor:
    """Loads the network of the last trained stage of a workdir.

    Raises:
      UserError: no stage is trained there, or it cannot be read.
    """
    return Predictor(workdir)


def evaluate(
    config: ml_collections.ConfigDict, predictions: epath.PathLike, split: str | None = None
) -> Evaluation:
    """Scores anybody's label maps or CAMs by the masks of a split.

    Args:
      config: its `data` names the data set; nothing but the split and its masks is needed.
      predictions: folder of <id>.png (labels), or of <id>.npy or <id>.npz (CAMs).
      split: the split; None: the config's `val_split`.

    Raises:
      UserError: the split has no masks, or a photo of it has no file; or a file is broken.
    """
    config = checked(config)
    fields, split = dict(config.data), split or config.data.val_split
    if "root" in fields:  # A data set of files: nothing but the split and its masks is read.
        fields |= {"train_split": split, "val_split": split}
        fields |= {plane.name: NO_FOLDER for plane in GIVEN}
    elif split not in (config.data.train_split, config.data.val_split):
        known = f"{config.data.train_split} and {config.data.val_split}"
        raise UserError(f"there is no split {split!r}; there are {known}")
    data = dataset_lib.prepare(**fields)
    if run := enclosing(predictions):  # Its predictions are scored.
        data = dataclasses.replace(data, journal=Journal(run.oracle))
    return Evaluation(split, score_folder(predictions, data, split))
