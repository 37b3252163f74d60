"""The layout of a workdir. Everything that reads or writes one asks here.

config.json, manifest.json, metrics.jsonl, tensorboard/, results.json
oracle.jsonl                           when masks were read, and what for
report.html, truth/<split>/<id>.png    the page to look at, and masks that it shows
review/sheet.jpg                       photos, pseudo labels and predictions, if there are no masks
<phase>/DONE.json                      written last; a resumed run looks for it
classifier/{checkpoints,params}
cam/pseudo/<plane>/<id>.png            initial pseudo labels (see `data.pseudo_labels`), of stage 0
cam/pseudo/{cam_class,cam_score}/<id>.png   the CAMs they were made from: largest class, its score
classifier_cam/<id>.npy                the classifier's CAMs on the feature grid, for the updates
stage_00/{checkpoints,params}
stage_00/val/<id>.png, val/saliency/<id>.png   segmentation and saliency of the validation split
stage_00/post/<id>.png                 the segmentation, post-processed
stage_00/pseudo/<plane>/<id>.png       updated labels, of stage 1
*/score/, */post_score/, */pseudo_score/, cam/sweep/   figures, where the split has masks

The phases are listed by `runs.phases.plan`.
"""

import contextlib
import re
from collections.abc import Collection, Iterator
from typing import Any

import ml_collections
from etils import epath

from auxseg_jax.config import declared, differences
from auxseg_jax.data.dataset import Dataset
from auxseg_jax.devices import hosts
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import say
from auxseg_jax.report import manifest as manifest_lib

CLASSIFIER, CAM, CLASSIFIER_CAM, REVIEW = "classifier", "cam", "classifier_cam", "review"
_DONE = "DONE.json"
_OLD_DIGEST = r"[0-9a-f]{16}"  # Before 0.4 it was a hash of paths and times, not of the content.
_UNFINISHED = r"\.[0-9a-f]{32}"  # What a kill leaves of a file.


def stage_name(index: int) -> str:
    """Returns the name of a stage's phase."""
    return f"stage_{index:02d}"


class Workdir:
    """Paths of one workdir, and what guards them."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path).expanduser()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> epath.Path:
        """The config, as JSON."""
        return self.path / "config.json"

    @property
    def manifest(self) -> epath.Path:
        """What the run was made of; see `report.manifest`."""
        return self.path / "manifest.json"

    @property
    def results(self) -> epath.Path:
        """All figures; written last."""
        return self.path / "results.json"

    @property
    def metrics(self) -> epath.Path:
        """Scalars of training, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> epath.Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def truth(self) -> epath.Path:
        """Masks that the report shows, <split>/<id>.png."""
        return self.path / "truth"

    @property
    def oracle(self) -> epath.Path:
        """When masks were read; see `runs.journal`."""
        return self.path / "oracle.jsonl"

    @property
    def tensorboard(self) -> epath.Path:
        """Folder of TensorBoard's events."""
        return self.path / "tensorboard"

    def folder(self, phase: str) -> epath.Path:
        """Folder of a phase."""
        return self.path / phase

    def done(self, phase: str) -> epath.Path:
        """The file that says that a phase is finished, with its result."""
        return self.path / phase / _DONE

    def checkpoints(self, phase: str) -> epath.Path:
        """Checkpoints of a phase that trains."""
        return self.path / phase / "checkpoints"

    def params(self, phase: str) -> epath.Path:
        """Parameters that a phase left."""
        return self.path / phase / "params"

    def labels(self, phase: str) -> epath.Path:
        """The set of pseudo labels that a phase left."""
        return self.path / phase / "pseudo" if phase == CAM else self.path / phase

    def sheet(self, phase: str) -> epath.Path:
        """The contact sheet of a review."""
        return self.path / phase / "sheet.jpg"

    def saliency(self, phase: str) -> epath.Path:
        """The network's saliency, of a phase that predicts."""
        return self.path / phase / "saliency"

    def trained_stages(self) -> list[str]:
        """Returns the stages that are trained to their end, the last one last.

        Raises:
          UserError: there is none.
        """
        folders = (path.parent.name for path in storage.matching(self.path, f"stage_*/{_DONE}"))
        names = {name: re.fullmatch(r"stage_(\d+)", name) for name in folders}
        stages = sorted((n for n, match in names.items() if match), key=lambda n: int(names[n][1]))
        if not stages:
            raise UserError(
                f"{self.path} holds no trained stage (stage_*/{_DONE}); train first: auxseg train"
            )
        return stages

    def finished_phases(self) -> list[str]:
        """Returns the names of the phases that are finished, sorted."""
        patterns = (f"*/{_DONE}", f"*/*/{_DONE}")
        done = [path for pattern in patterns for path in storage.matching(self.path, pattern)]
        return sorted(str(path.parent.relative_to(self.path)) for path in done)

    def read_manifest(self) -> dict[str, Any]:
        """Returns manifest.json; raises UserError if there is none, or a damaged one."""
        return self._read_object(self.manifest)

    def classes(self) -> list[str]:
        """Returns the names of the classes, background first.

        Raises:
          UserError: there is no manifest.json.
        """
        classes = self._data().get("classes")
        if not isinstance(classes, list) or len(classes) < 2:
            raise UserError(f"{self.manifest} is damaged: it names no classes")
        return classes

    def _data(self) -> dict[str, Any]:
        written = self.read_manifest().get("data")
        return written if isinstance(written, dict) else {}

    def _read_object(self, path: epath.Path) -> dict[str, Any]:
        if not path.exists():
            raise UserError(f"{self.path} is no whole workdir: there is no {path.name}")
        content = storage.read_json(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged: expected a JSON object")
        return content

    def read_config(self) -> ml_collections.ConfigDict:
        """Returns the config of the run; fields that are newer than it do what was done before.

        Raises:
          UserError: there is no config.json.
        """
        config, added = declared.complete(self._read_object(self.config))
        if added:
            say(f"{self.config} is of an older version; as before: {', '.join(added)}")
        return config

    def check(self, config: ml_collections.ConfigDict, phases: Collection[str]) -> None:
        """Refuses a workdir of another config, or a folder that is no workdir.

        Args:
          config: the config of the run.
          phases: names of its phases. A new workdir may hold some, copied from another run.

        Raises:
          UserError: it names the fields that differ and are not free, or what the folder holds.
        """
        if not self.config.exists():
            names = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
            names -= {phase.partition("/")[0] for phase in phases} | {self.metrics.name}
            if others := sorted(name for name in names if not re.fullmatch(_UNFINISHED, name)):
                raise UserError(
                    f"{self.path} holds {others[0]} but no config.json, so it is no workdir; "
                    "choose another --workdir"
                )
            return
        written, _ = declared.complete(self._read_object(self.config))
        found = differences.between(manifest_lib.plain(written), manifest_lib.plain(config))
        if changed := [d for d in found if not d.is_free]:
            lines = [f"{d.field}: {d.before!r} there, {d.after!r} now" for d in changed]
            raise UserError(
                f"{self.path} belongs to a run with another config:\n  "
                + "\n  ".join(lines)
                + "\nChoose another --workdir, or delete this one."
            )

    def read_done(self, phase: str) -> dict[str, Any]:
        """Returns what a finished phase wrote down: "result", "seconds" and more.

        Raises:
          UserError: it is damaged.
        """
        record = self._read_object(self.done(phase))
        is_whole = isinstance(record.get("result"), dict)
        if not (is_whole and isinstance(record.get("seconds"), int | float)):
            raise UserError(
                f"{self.done(phase)} is damaged; delete it, and `auxseg train` with this workdir "
                "makes the phase again"
            )
        return record

    def data_state(self) -> str:
        """Returns `Dataset.state` of the data that the workdir was begun with; "" if not known."""
        return str(self._data().get("state", ""))

    def check_data(self, data: Dataset) -> None:
        """Raises UserError if the workdir was begun with other data."""
        digest = self._data().get("digest")
        if re.fullmatch(_OLD_DIGEST, str(digest)):
            say(f"{self} is of a version before 0.4; whether its data changed is not known")
        elif digest != data.digest:
            raise UserError(
                f"the data of {self.path} have changed since it was begun; "
                "choose another --workdir, or delete this one"
            )

    def claim(self, config: ml_collections.ConfigDict, data: Dataset) -> None:
        """Writes config.json and manifest.json into a new workdir.

        A new workdir may hold phases copied from another run, so that experiments share them; the
        manifest lists them.

        Raises:
          UserError: the workdir, or a copied phase, was begun with other data.
        """
        if self.manifest.exists():
            self.check_data(data)
            return
        copied = self.finished_phases()
        for phase in copied:
            if storage.read_json(self.done(phase))["data"] != data.digest:
                raise UserError(
                    f"{self.folder(phase)} was made from other data; "
                    "choose another --workdir, or copy from another run"
                )
        storage.write_json(self.config, manifest_lib.plain(config))
        content = manifest_lib.collect(config, data) | {"copied": copied}
        storage.write_json(self.manifest, content)

    def is_in_use(self) -> bool:
        """Returns whether a process is at work here."""
        if not self.config.exists():
            return False
        try:
            with storage.lock(self.config, wait=False):
                return False
        except BlockingIOError:
            return True

    @contextlib.contextmanager
    def sole_use(self) -> Iterator[None]:
        """Holds the workdir against other runs.

        Raises:
          UserError: another run works in it.
        """
        with contextlib.ExitStack() as stack:
            try:
                if hosts.is_first():
                    stack.enter_context(storage.lock(self.config, wait=False))
            except BlockingIOError as error:
                raise UserError(f"another process is at work in {self.path}") from error
            yield


def enclosing(path: epath.PathLike) -> Workdir | None:
    """Returns the workdir in which a file or folder lies, if it lies in one."""
    for parent in epath.Path(path).expanduser().absolute().parents:
        folder = Workdir(parent)
        if folder.config.exists() and folder.manifest.exists():
            return folder
    return None
