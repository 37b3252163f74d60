"""Segments photos with a trained network."""

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.config.validation import checked
from auxseg_jax.data import features
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError, collect, fault
from auxseg_jax.files import images
from auxseg_jax.inference import passes
from auxseg_jax.runs import build, readers
from auxseg_jax.runs.workdir import CLASSIFIER, Workdir
from auxseg_jax.training import checkpoint

Photo = epath.PathLike | np.ndarray
"""A path, or uint8 RGB [H, W, 3]."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network says of one photo; what was not asked for is None.

    Attributes:
      labels: uint8 [H, W], indices of `Predictor.classes`.
      probabilities: float32 [H, W, C+1], of background and classes.
      certainty: float32 [H, W], the largest of them.
      saliency: float32 [H, W] in 0..1.
      cams: {class: float32 [H, W] in 0..1} for the classes that the classification branch sees.
      affinity: float32 [H, W], what a point looks at; its largest entry is 1.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None
    certainty: np.ndarray | None = None
    saliency: np.ndarray | None = None
    cams: dict[str, np.ndarray] | None = None
    affinity: np.ndarray | None = None


class Predictor:
    """The network of the last trained stage of a workdir.

    Args:
      workdir: the folder of a run.

    Attributes:
      stage: name of the stage.
      classes: names, background first.
      config: the config of the run.
      can_show: what `show` may name.
      can_use_labels: whether there is what `pseudo.labelled` needs.
      workdir: the run.

    Raises:
      UserError: no stage is trained, or its parameters or the config cannot be read.
    """

    def __init__(self, workdir: epath.PathLike):
        self.workdir = folder = Workdir(workdir)
        self.stage = folder.trained_stages()[-1]
        self.config = checked(folder.read_config())
        self.classes = tuple(folder.classes())
        compilation.set_compilation_cache(self.config.compilation_cache)
        mesh = mesh_lib.make_mesh()
        self._network = build.network(self.config, len(self.classes) - 1)
        shapes = build.abstract_params(self.config, self._network)
        self._params = checkpoint.load_params(folder.params(self.stage), shapes, mesh)
        self._mesh = mesh_lib.local_mesh(mesh)
        tasks, affinity = self.config.tasks, self.config.affinity
        switches = {"saliency": tasks.sal, "cam": tasks.cls, "affinity": affinity.pairwise}
        can_show = [name for name, switch in switches.items() if switch]
        self.can_show = ("probabilities", "certainty", *can_show)
        needed = self.config.label_update.classifier_weight > 0
        self.can_use_labels = (
            self.config.supervision == "image_labels"
            and tasks.cls
            and (not needed or folder.params(CLASSIFIER).exists())
        )
        self._functions: dict[Any, Callable] = {}

    def predict(
        self,
        photos: Sequence[Photo],
        *,
        post: bool = False,
        show: Collection[str] = ("probabilities",),
        point: tuple[int, int] | None = None,
    ) -> list[Prediction]:
        """Segments photos and returns arrays, which are all in memory at once.

        The probabilities of a photo of VOC are 16 MB; `show=()` leaves them out. `predict_files`
        writes files instead.

        Args:
          photos: paths, or uint8 RGB arrays [H, W, 3].
          post: add the views of `config.post` and the dense CRF; it is about 8 times slower.
          show: what to return beside the labels, names of `can_show`.
          point: (x, y) in pixels, for "affinity".

        Raises:
          UserError: a photo cannot be read, or the network cannot show what is asked.
        """
        source = _Photos(photos)
        if isinstance(show, str):
            raise UserError(f"show={show!r}: expected a list of names")
        self.check_show(show, point, source.sizes)
        results: dict[str, Prediction] = {}

        def keep(name: str, maps: dict[str, np.ndarray]) -> None:
            results[name] = self._prediction(maps)

        self.run("segmentation", source, keep, post=post, show=show, point=point)
        return [results[str(index)] for index in range(len(source))]

    def run(
        self,
        title: str,
        source: Any,
        write: passes.Write,
        *,
        post: bool = False,
        show: Collection[str] = (),
        point: tuple[int, int] | None = None,
        labelled: bool = False,
    ) -> None:
        """Segments photos and hands on each photo's arrays, as `segmentation.segment` returns them.

        Args:
          title: name on the progress bar.
          source: raw examples with an attribute `sizes`, like `PhotoFiles`.
          write: called in threads.
          post: see `predict`.
          show: see `predict`.
          point: see `predict`.
          labelled: the examples have image labels, which are used: see `pseudo.labelled`.
        """
        reader: PhotoReader = readers.photo_reader(
            self.config, source, source.sizes, self._mesh.size
        )
        point = None if point is None else tuple(point)
        key = (post, tuple(sorted(show)), point, labelled)
        if key not in self._functions:
            if labelled:
                function = build.labelled_segmentation(self.config, self._network, post, show)
            else:
                function = build.segmentation(self.config, self._network, post, show, point)
            self._functions[key] = passes.PhotoFunction(function, self._mesh)
        params = self._params
        if labelled:
            params = {"network": params, "classifier": self._classifier_params()}
        passes.run(title, self._functions[key], params, reader, write, self._mesh)

    def _classifier_params(self) -> dict:
        if not self.config.label_update.classifier_weight:
            return {}
        shapes = build.abstract_params(self.config, self._network)
        mesh, path = mesh_lib.make_mesh(), self.workdir.params(CLASSIFIER)
        return checkpoint.load_params(path, build.classifier_part(shapes), mesh)

    def check_show(
        self,
        show: Collection[str],
        point: tuple[int, int] | None,
        sizes: Sequence[tuple[int, int]] = (),
        can_show: Collection[str] = (),
    ) -> None:
        """Raises UserError unless the network can show what is asked of photos of these sizes.

        Args:
          show: what is asked.
          point: (x, y), for "affinity".
          sizes: (H, W) of the photos.
          can_show: what there is to show; by default the attribute.
        """
        can_show = can_show or self.can_show
        if lacking := [name for name in show if name not in can_show]:
            known = ", ".join(can_show)
            raise UserError(f"there is no {', '.join(lacking)} to show; there are {known}")
        if ("affinity" in show) != (point is not None):
            raise UserError("an affinity is shown for a point (x,y): give both, or neither")
        if point is not None:
            are_whole = [isinstance(part, int | np.integer) for part in point]
            if are_whole != [True, True]:
                raise UserError(f"point={point!r}: expected two whole numbers (x, y)")
        if point is not None and sizes:
            height, width = (min(lengths) for lengths in zip(*sizes, strict=True))
            if not (0 <= point[0] < width and 0 <= point[1] < height):
                raise UserError(
                    f"the point {point[0]},{point[1]} is outside a photo; "
                    f"the smallest are {width} wide and {height} high"
                )

    def _prediction(self, maps: dict[str, np.ndarray]) -> Prediction:
        cams = None
        if "cam" in maps:
            present = np.flatnonzero(maps["present"])
            cams = {self.classes[k + 1]: maps["cam"][..., k] for k in present}
        return Prediction(
            labels=maps["labels"],
            probabilities=maps.get("probabilities"),
            certainty=maps.get("certainty"),
            saliency=maps.get("saliency"),
            cams=cams,
            affinity=maps.get("affinity"),
        )


class _Photos:
    """Photos in memory or in files as a source for `PhotoReader`; ids are their numbers."""

    def __init__(self, photos: Sequence[Photo]):
        self._data: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        if isinstance(photos, str | os.PathLike | np.ndarray):
            raise UserError("expected a list of photos")
        with collect("photos"):
            for photo in photos:
                self._add(photo)

    def _add(self, photo: Photo) -> None:
        """Adds a photo, or reports its fault."""
        if isinstance(photo, np.ndarray):
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
                fault(f"expected photos as uint8 [H, W, 3], got {photo.dtype} {photo.shape}")
                return
            data, size = images.encode_png(photo), photo.shape[:2]
        elif not isinstance(photo, str | os.PathLike):
            fault(f"expected a path or a uint8 array, got {type(photo).__name__}")
            return
        else:
            try:
                data = epath.Path(photo).expanduser().read_bytes()
                size = features.check_image(data)
            except (OSError, UserError) as error:
                fault(f"{photo}: {error}")
                return
        self._data.append(data)
        self.sizes.append(size)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": str(index).encode(), "image": self._data[index]}
