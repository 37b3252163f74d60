"""The photos of a report: which ones, and the pictures of each step."""

import functools
from collections.abc import Collection, Sequence
from typing import Any

import ml_collections
import numpy as np

from auxseg_jax.data import features, pseudo_labels
from auxseg_jax.data.dataset import SHOW, Dataset, evenly
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import details, intervals
from auxseg_jax.files import file_sets, images
from auxseg_jax.inference import contact_sheet
from auxseg_jax.report import pages
from auxseg_jax.runs import explained
from auxseg_jax.runs.workdir import CAM, Workdir

_OF_TRAIN = 6
"""Training photos, where no step by step was kept."""

_EACH = 3
"""Validation photos of the worst, of the median and of the best IoU."""

_OF_AFFINITY = 4


class Photos:
    """The photos of a report.

    Args:
      folder: the workdir.
      config: its config.
      data: its data; None if they are gone: then there are no photos.
      stages: the stages of which anything is finished.
      scored: the last phase that scored predictions, or None.
      least_certain: training photos that are shown too, of a run that cannot be scored.

    Attributes:
      train_order: how the training photos are ordered, in words.
      explained: {stage: {id: what was kept of the photo}}.
    """

    def __init__(
        self,
        folder: Workdir,
        config: ml_collections.ConfigDict,
        data: Dataset | None,
        stages: Sequence[str],
        scored: str | None,
        least_certain: Sequence[str] = (),
    ):
        self._folder, self._config, self._data = folder, config, data
        self._stages, self._scored = stages, scored
        self._least_certain = least_certain
        self.train_order = ""
        self.explained = {
            stage: explained.read(folder.folder(f"{stage}/explain"))
            for stage in stages
            if folder.done(f"{stage}/explain").exists()
        }

    def explained_truths(self) -> dict[str, np.ndarray]:
        """Returns {id: mask} of the training photos of which steps were kept, if they have any."""
        if self._data is None:
            return {}
        split = self._data.train_split
        names = {name for maps in self.explained.values() for name in maps}
        return self._truths(split, sorted(names & set(self._data.ids(split))))

    @property
    def explained_stage(self) -> str:
        """The last stage whose steps were kept; "" without any."""
        return next(reversed(self.explained), "")

    def train(self) -> list[dict[str, Any]]:
        """Returns training photos with their pictures of every stage."""
        data = self._data
        if data is None or not self._folder.done(CAM).exists():
            return []
        every = data.ids(data.train_split)
        names = [*self._least_certain]
        names += [name for maps in self.explained.values() for name in maps]
        chosen = list(dict.fromkeys(names)) or [every[k] for k in evenly(len(every), _OF_TRAIN)]
        chosen = [name for name in chosen if name in set(every)]
        if self._least_certain:
            self.train_order = ", those first whose prediction and pseudo label agree least"
        truths = self._truths(data.train_split, chosen)
        found = []
        for name in chosen:
            raw = self._raw(data.train_split, name)
            photo = features.decode_image(raw["image"])
            present = [data.classes[k + 1] for k in np.flatnonzero(raw["labels"])]
            fixed = [pages.photo(photo, "photo", f"the photo {name}")]
            fixed += self._given_saliency(raw, name)
            first = self._labels(CAM, name, ("segmentation", "cam_class", "cam_score"))
            if "cam_class" in first:
                drawn = contact_sheet.cam(first["cam_class"], first["cam_score"])
                fixed.append(pages.photo(drawn, "initial CAM", f"initial CAM of {name}"))
            if first:
                fixed.append(_over(photo, first["segmentation"], "initial label", name))
            if name in truths:
                fixed.append(_over(photo, truths[name], "truth", name))
            title = f"{name}: {', '.join(present) or 'none of the classes'}"
            stages = self._by_stage(lambda stage, n=name, p=photo: self._train_stage(stage, n, p))
            found.append({"title": title, "fixed": fixed, "stages": stages})
        return found

    def val(self) -> list[dict[str, Any]]:
        """Returns validation photos of the worst, the median and the best IoU."""
        data = self._data
        behind = details.read(self._folder.folder(self._scored)) if self._scored else None
        if data is None or behind is None:
            return []
        counts = behind.photos
        ious = intervals.mean_iou(counts.pixels)
        order = np.argsort(ious, kind="stable")
        middle = max(len(order) // 2 - 1, 0)
        groups = {
            "worst": order[:_EACH],
            "median": order[middle : middle + _EACH],
            "best": order[-_EACH:][::-1],
        }
        chosen = {int(k): word for word, members in groups.items() for k in members}
        truths = self._truths(data.val_split, [counts.ids[k] for k in chosen])
        found = []
        for index, word in chosen.items():
            name = counts.ids[index]
            photo = features.decode_image(self._raw(data.val_split, name)["image"])
            fixed = [pages.photo(photo, "photo", f"the photo {name}")]
            if name in truths:
                fixed.append(_over(photo, truths[name], "truth", name))
            stages = self._by_stage(lambda stage, n=name, p=photo: self._val_stage(stage, n, p))
            title = f"{name}: {word}, IoU {ious[index]:.0f}%"
            found.append({"title": title, "fixed": fixed, "stages": stages})
        return found

    def affinities(self) -> list[dict[str, Any]]:
        """Returns the affinities of some photos as pictures of numbers."""
        if self._data is None or not self.explained:
            return []
        found = []
        for name, maps in list(self.explained[self.explained_stage].items())[:_OF_AFFINITY]:
            if "grid" not in maps:
                continue
            parts, names = [], []
            if "affinity" in maps:
                count, cells = maps["affinity"].shape[:2]
                parts.append(maps["affinity"].reshape(count * cells, cells))
                names += explained.affinity_names(self._config, count)
            if "unary" in maps:
                parts.append(maps["unary"][None])
                names.append("unary")
            image = self._raw(self._data.train_split, name)["image"]
            photo = pages.photo(features.decode_image(image), name, name)
            rows, columns = maps["grid"].tolist()
            found.append(
                {
                    "name": name,
                    "photo": photo.src,
                    "data": pages.numbers(np.concatenate(parts)),
                    "height": round(float(maps["extent"][0]), 3),
                    "width": round(float(maps["extent"][1]), 3),
                    "sums": [f"{v:.2f}" for v in maps.get("row_sums", np.zeros(0))],
                    "rows": rows,
                    "columns": columns,
                    "names": names,
                    "neighbours": [f"{v:.1f}" for v in maps.get("neighbours", np.zeros(0))],
                }
            )
        return found

    def _by_stage(self, pictures: Any) -> list[dict[str, Any]]:
        last = len(self._stages) - 1
        return [
            {"index": index, "is_last": index == last, "images": pictures(stage)}
            for index, stage in enumerate(self._stages)
        ]

    def _train_stage(self, stage: str, name: str, photo: np.ndarray) -> list[pages.Picture]:
        maps = self.explained.get(stage, {}).get(name, {})
        found = []
        if maps:
            for kind, caption in (("cam", "CAM"), ("walked", "propagated CAM")):
                drawn = contact_sheet.cam(maps[f"{kind}_class"], maps[f"{kind}_score"])
                found.append(pages.photo(drawn, caption, f"{caption} of {name}, {stage}"))
        labels = self._labels(f"{stage}/pseudo", name, ("segmentation", "saliency"))
        if labels:
            text = f"saliency of {name} after {stage}"
            found.append(pages.photo(labels["saliency"], "saliency after", text))
            found.append(_over(photo, labels["segmentation"], "pseudo label", name))
        if maps:
            found.append(_over(photo, maps["labels"], "prediction", name))
            text = f"certainty of the prediction of {name}, {stage}"
            found.append(pages.photo(maps["certainty"], "certainty", text))
        return found

    def _val_stage(self, stage: str, name: str, photo: np.ndarray) -> list[pages.Picture]:
        found = []
        kinds = (
            ("val/initial", "initial prediction"),
            ("val", "prediction"),
            ("post", "post-processed"),
        )
        for place, caption in kinds:
            path = self._folder.folder(stage) / place / f"{name}.png"
            if path.exists():
                found.append(_over(photo, images.read_plane(path), caption, name))
        for kind in ("saliency", "certainty"):
            path = self._folder.folder(stage) / "val" / kind / f"{name}.png"
            if path.exists():
                found.append(pages.photo(images.read_plane(path), kind, f"{kind} of {name}"))
        return found

    def _labels(self, phase: str, name: str, maps: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns a photo's pseudo labels of a phase; {} where it is not finished."""
        if not self._folder.done(phase).exists():
            return {}
        if phase == CAM and not (self._folder.labels(CAM) / "cam_class").exists():
            maps = ("segmentation",)  # Of masks, or as records.
        return pseudo_labels.read(file_sets.reader(self._folder.labels(phase)), name, maps)

    @staticmethod
    def _given_saliency(raw: dict[str, Any], name: str) -> list[pages.Picture]:
        if "saliency" not in raw:
            return []
        plane = images.decode_plane(raw["saliency"])
        return [pages.photo(plane, "saliency given", f"given saliency of {name}")]

    def _truths(self, split: str, names: Collection[str]) -> dict[str, np.ndarray]:
        """Returns the masks of photos, to show. They are kept, so that they are read once."""
        data = self._data
        if not data.has_masks(split):
            return {}
        folder = self._folder.truth / split
        absent = {name for name in names if not (folder / f"{name}.png").exists()}
        for name, mask in data.masks(split, SHOW, only=absent) if absent else ():
            images.write_label_png(folder / f"{name}.png", mask)
        paths = {name: folder / f"{name}.png" for name in names}
        try:
            return {name: images.read_plane(path) for name, path in paths.items() if path.exists()}
        except UserError as error:
            raise UserError(f"{error}; delete {folder}, and the report copies it again") from error

    def _raw(self, split: str, name: str) -> dict[str, Any]:
        photos, index = self._opened(split)
        return photos[index[name]]

    @functools.cache  # noqa: B019 The object lives as long as one report.
    def _opened(self, split: str) -> tuple[Any, dict[str, int]]:
        """Returns the photos of a split, and the place of each id."""
        places = {name: k for k, name in enumerate(self._data.ids(split))}
        return self._data.photos(split), places


def _over(photo: np.ndarray, labels: np.ndarray, caption: str, name: str) -> pages.Picture:
    return pages.photo(contact_sheet.overlay(photo, labels), caption, f"{caption} of {name}")
