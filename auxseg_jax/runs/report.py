"""report.html: what a run did so far, to look at. Collected from the workdir, drawn by `report`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from auxseg_jax import __version__, trees
from auxseg_jax.config import differences
from auxseg_jax.data import about
from auxseg_jax.data.dataset import Dataset
from auxseg_jax.evaluation import details
from auxseg_jax.files import storage
from auxseg_jax.report import charts, pages
from auxseg_jax.runs import journal, report_affinity, report_curves, report_photos
from auxseg_jax.runs.phase import Phase
from auxseg_jax.runs.phases import TRAIN, VAL, plan
from auxseg_jax.runs.workdir import CAM, CLASSIFIER, REVIEW, Workdir, stage_name

_STAGE_HEADINGS = ("initial", "refined", "val", "post", "pseudo labels")


def write(folder: Workdir, config: ml_collections.ConfigDict) -> None:
    """Writes report.html of what is finished.

    Args:
      folder: the workdir.
      config: its config, checked.

    Raises:
      UserError: it is no workdir.
    """
    data = journal.open_data(folder, config)
    splits = {TRAIN: config.data.train_split, VAL: config.data.val_split}
    scored = [role for role, name in splits.items() if data is None or data.has_masks(name)]
    phases = plan(config, scored)
    content = _Run(folder, config, phases, data).content()
    page = pages.render("report.html", **content)
    storage.write_bytes(folder.report, page.encode())


class _Run:
    """What is collected of one run."""

    def __init__(self, folder: Workdir, config: Any, phases: Sequence[Phase], data: Dataset | None):
        self._folder, self._config, self._phases, self._data = folder, config, phases, data
        self._done = {
            phase.name: folder.read_done(phase.name)
            for phase in phases
            if folder.done(phase.name).exists()
        }
        self._classes = folder.classes()
        indices = {p.stage for p in phases if p.stage is not None and p.name in self._done}
        self._stages = [stage_name(index) for index in sorted(indices)]

    def content(self) -> dict[str, Any]:
        """Returns the variables of the template."""
        least = self._result(REVIEW).get("least_certain", ())
        photos = report_photos.Photos(
            self._folder, self._config, self._data, self._stages, self._last_score(), least
        )
        preset, found = differences.from_preset(self._config)
        content = {
            "title": f"{self._folder.path.name} · auxseg_jax",
            "heading": str(self._folder),
            "version": __version__,
            "state": self._state(),
            "is_supervised": self._config.supervision == "masks",
            "is_scored": any(phase.masks for phase in self._phases),
            "figures": self._figures(),
            "stages": self._stage_rows(),
            "stage_headings": _STAGE_HEADINGS,
            "kept": (self._certainty() or {}).get("photos", 0),
            "class_headings": [name for name, _ in self._scored_classes()],
            "classes": self._class_rows(),
            "charts": self._charts(),
            "shown_stages": self._stages,
            "colours": pages.legend(self._classes),
            "train_photos": photos.train(),
            "val_photos": photos.val(),
            "train_order": photos.train_order,
            "affinities": photos.affinities(),
            "affinity_stage": photos.explained_stage,
            **self._affinity_tables(photos),
            "confusion": self._confusion(),
            "calibration": self._calibration(),
            "phases": self._phase_rows(),
            "preset": preset,
            "differences": found,
            "manifest": self._manifest(),
        }
        return content | {"sections": _sections(content)}

    def _state(self) -> str:
        done, every = len(self._done), len(self._phases)
        minutes = sum(record["seconds"] for record in self._done.values()) / 60
        left = [phase.name for phase in self._phases if phase.name not in self._done]
        text = f"{done} of {every} phases are finished, {minutes:.1f} minutes"
        return f"{text}; next: {left[0]}" if left else f"Finished: {text}"

    def _result(self, phase: str) -> Mapping[str, Any]:
        return self._done.get(phase, {}).get("result") or {}

    def _figures(self) -> list[dict[str, str]]:
        found = []

        def add(name: str, value: float | None, note: str) -> None:
            if value is not None:
                found.append({"name": name, "value": f"{value:.1f}", "note": note})

        scored = [s for s in self._stages if self._result(f"{s}/score")]
        for last in scored[-1:]:
            add("val mIoU", self._result(f"{last}/score").get("val_miou"), last)
            post = self._result(f"{last}/post_score").get("val_miou")
            add("post-processed", post, f"{last}, views and CRF")
        labelled = [s for s in self._stages if self._result(f"{s}/pseudo_score")]
        for last in labelled[-1:]:
            value = self._result(f"{last}/pseudo_score").get("miou_255_as_miss")
            add("pseudo labels", value, f"mIoU on train, of {last}")
        value = self._result(f"{CAM}/score").get("miou_255_as_miss")
        add("initial labels", value, "mIoU on train, CAM and saliency")
        add("classifier", self._result(CLASSIFIER).get("map"), "val mAP")
        review = self._result(REVIEW)
        add("labels and prediction agree", review.get("agreement"), "mean IoU, training photos")
        add("saliency and prediction agree", review.get("saliency_iou"), "mean IoU")
        certainty = self._certainty()
        if certainty:
            add("calibration error", certainty["error"], "percent, see Certainty")
        return found

    def _stage_rows(self) -> list[dict[str, Any]]:
        first = self._result(f"{CAM}/score").get("miou_255_as_miss")
        rows = []
        if first is not None:
            rows.append({"name": "initial labels", "cells": ["", "", "", "", f"{first:.1f}"]})
        for stage in self._stages:
            behind = self._details(f"{stage}/score")
            kept = (behind.certainty or {}) if behind else {}
            values = [
                kept.get("initial_miou"),
                kept.get("miou") if "initial_miou" in kept else None,
                self._result(f"{stage}/score").get("val_miou"),
                self._result(f"{stage}/post_score").get("val_miou"),
                self._result(f"{stage}/pseudo_score").get("miou_255_as_miss"),
            ]
            cells = ["" if value is None else f"{value:.1f}" for value in values]
            if any(cells):
                rows.append({"name": stage, "cells": cells})
        return rows

    @functools.cache  # noqa: B019 The object lives as long as one report.
    def _details(self, phase: str) -> details.Details | None:
        return details.read(self._folder.folder(phase)) if phase in self._done else None

    def _last_score(self) -> str | None:
        """Returns the last phase that scored predictions."""
        scored = [f"{s}/score" for s in self._stages if f"{s}/score" in self._done]
        return scored[-1] if scored else None

    def _certainty(self) -> dict[str, Any] | None:
        last = self._last_score()
        behind = self._details(last) if last else None
        return behind.certainty if behind else None

    def _scored_classes(self) -> list[tuple[str, Mapping[str, float | None]]]:
        last = self._last_score()
        if not last:
            return []
        stage = last.partition("/")[0]
        found = [("val", self._result(last)), ("post", self._result(f"{stage}/post_score"))]
        return [(name, result["per_class"]) for name, result in found if "per_class" in result]

    def _class_rows(self) -> list[dict[str, Any]]:
        counts: Sequence[int] = ()
        if self._data is not None:
            content = about.read(self._data.directory)
            counts = content.splits[self._data.train_split].of_class
        photos = [None, *counts]
        return [
            {
                "name": name,
                "photos": photos[k] if k < len(photos) else None,
                "figures": [figures.get(name) for _, figures in self._scored_classes()],
            }
            for k, name in enumerate(self._classes)
        ]

    def _charts(self) -> list[str]:
        steps = [row["cells"] for row in self._stage_rows() if row["name"] in self._stages]
        columns = [[row[k] for row in steps] for k in range(len(_STAGE_HEADINGS))]
        figures = dict(zip(_STAGE_HEADINGS, columns, strict=True))
        return report_curves.draw(self._folder, self._stages, figures)

    def _affinity_tables(self, photos: report_photos.Photos) -> dict[str, Any]:
        results = {stage: self._result(f"{stage}/explain") for stage in photos.explained}
        scored = {stage: result for stage, result in results.items() if result}
        truths = photos.explained_truths() if scored else {}
        weights = [
            {"name": stage, "text": ", ".join(f"{n} {v:+.3f}" for n, v in r["weights"].items())}
            for stage, r in scored.items()
            if r["weights"]
        ]
        return {
            "affinity_headings": report_affinity.HEADINGS,
            "affinity_rows": report_affinity.rows(scored, photos.explained, truths),
            "affinity_photos": max((r["photos"] for r in scored.values()), default=0),
            "affinity_weights": weights,
            "cam_gains": report_affinity.cam_gains(photos.explained, truths, self._classes),
        }

    def _confusion(self) -> dict[str, Any] | None:
        last = self._last_score()
        behind = self._details(last) if last else None
        if behind is None or len(self._classes) > 40:  # A larger table cannot be read.
            return None
        names = list(self._classes)
        counts = behind.confusion.astype(float)
        share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        columns = [*names, "no label"] if behind.confusion[:, -1].any() else names
        rows = [
            {
                "name": name,
                "cells": [
                    {"text": f"{value:.0f}" if value >= 0.5 else "", "shade": f"{value:.0f}"}
                    for value in share[k, : len(columns)]
                ],
            }
            for k, name in enumerate(names)
            if counts[k].any()
        ]
        return {"names": columns, "rows": rows, "stage": last.partition("/")[0]}

    def _calibration(self) -> dict[str, Any] | None:
        certainty = self._certainty()
        if not certainty:
            return None
        points = [(c, right) for share, c, right in certainty["bins"] if share > 0]
        series = [charts.Line("right", points), charts.Line("perfect", [(0, 0), (100, 100)])]
        chart = charts.lines("Share of pixels that are right, percent", "certainty, %", series)
        return {"photos": certainty["photos"], "error": certainty["error"], "chart": chart}

    def _phase_rows(self) -> list[dict[str, str]]:
        rows = []
        for phase in self._phases:
            record = self._done.get(phase.name)
            if record:
                memory = record.get("memory_mib", {})
                rows.append(
                    {
                        "name": phase.name,
                        "minutes": f"{record['seconds'] / 60:.2f}",
                        "host": str(memory.get("host", "")),
                        "device": str(memory.get("device", "")),
                        "finished": str(record.get("finished", "")),
                    }
                )
        return rows

    def _manifest(self) -> list[tuple[str, str]]:
        content = self._folder.read_manifest()
        content.pop("config", None)
        flat = trees.flatten({k: v for k, v in content.items() if v != {}})
        return [(name.replace("/", "."), str(value)) for name, value in flat.items()]


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    present: list[tuple[str, str, Callable[[], Any]]] = [
        ("classes", "Classes", lambda: content["classes"]),
        ("curves", "Curves", lambda: content["charts"]),
        ("photos", "Photos", lambda: content["train_photos"] or content["val_photos"]),
        ("affinity", "Affinity", lambda: content["affinities"] or content["affinity_rows"]),
        ("confusion", "Confusion", lambda: content["confusion"]),
        ("certainty", "Certainty", lambda: content["calibration"]),
        ("time", "Time and memory", lambda: True),
        ("config", "Config", lambda: True),
        ("manifest", "Manifest", lambda: True),
    ]
    return [(section, name) for section, name, is_there in present if is_there()]
