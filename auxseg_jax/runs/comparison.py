"""Two runs side by side: what they were made of, what came out, and which photos changed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from auxseg_jax import trees
from auxseg_jax.config import differences
from auxseg_jax.data import features
from auxseg_jax.evaluation import details, intervals
from auxseg_jax.files import images, storage
from auxseg_jax.inference import contact_sheet
from auxseg_jax.report import pages
from auxseg_jax.runs import journal
from auxseg_jax.runs.workdir import Workdir

EQUAL, NOISE, DIFFERENT = "equal", "within noise", "different"
NOTHING, PARTLY = "nothing to compare", "equal, as far as both are"

_MEAN_IOU = {"val_miou": "val mIoU", "miou_255_as_miss": "pseudo labels, mIoU"}
_OTHERS = {"map": "classifier, mAP", "best_miou": "CAM, best mIoU (oracle)"}
_PHOTOS = 12


class Figure(NamedTuple):
    """One figure of two runs, percent.

    Attributes:
      phase: the phase that scored it.
      name: what it is.
      first: of the first run.
      second: of the second.
      interval: of their difference; None where photos are not known one by one, or are others.
      verdict: EQUAL, NOISE or DIFFERENT.
    """

    phase: str
    name: str
    first: float
    second: float
    interval: intervals.Interval | None
    verdict: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What differs between two runs.

    Attributes:
      config: fields of the config.
      environment: entries of the manifest: versions, devices, data.
      figures: the main figures that both have.
      equal: of all numbers of the phases that both have, how many are equal.
      total: how many there are.
      missing: phases that one of them alone has.
      photos: (id, IoU of the first run, of the second), the largest change first.
      scored: the phase that scored these photos; "" without any.
    """

    config: Sequence[differences.Difference]
    environment: Sequence[differences.Difference]
    figures: Sequence[Figure]
    equal: int
    total: int
    missing: Sequence[str]
    photos: Sequence[tuple[str, float, float]]
    scored: str

    @property
    def verdict(self) -> str:
        """EQUAL if every number is; NOISE if every difference is that has an interval."""
        if not self.total:
            return NOTHING
        if self.equal == self.total:
            return PARTLY if self.missing else EQUAL
        differing = [figure for figure in self.figures if figure.verdict != EQUAL]
        judged = {figure.verdict for figure in differing if figure.interval}
        return NOISE if judged == {NOISE} else DIFFERENT

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return {
            "verdict": self.verdict,
            "equal": self.equal,
            "total": self.total,
            "missing": list(self.missing),
            "config": [d._asdict() for d in self.config],
            "environment": [d._asdict() for d in self.environment],
            "figures": [
                f._asdict() | {"interval": f.interval._asdict() if f.interval else None}
                for f in self.figures
            ],
            "photos": [list(entry) for entry in self.photos],
        }


def compare(first: Workdir, second: Workdir) -> Comparison:
    """Compares two runs, as far as both are.

    Raises:
      UserError: one is no workdir.
    """
    mine, theirs = (figures_of(folder) for folder in (first, second))
    figures, changed, scored, equal, total = [], [], "", 0, 0
    for phase in sorted(mine.keys() & theirs.keys()):
        ours, others = _numbers(mine[phase]), _numbers(theirs[phase])
        total += len(ours)
        equal += sum(others.get(name) == value for name, value in ours.items())
        photos = _photos_of(phase, first, second)
        for key, name in (_MEAN_IOU | _OTHERS).items():
            if key in mine[phase] and key in theirs[phase]:
                pair = mine[phase][key], theirs[phase][key]
                figures.append(_figure(phase, name, pair, photos if key in _MEAN_IOU else None))
        if photos and "val_miou" in mine[phase] and not phase.endswith("post_score"):
            scored = phase
            ious = [intervals.mean_iou(counts.pixels) for counts in photos]
            order = np.argsort(-np.abs(ious[1] - ious[0]), kind="stable")[:_PHOTOS]
            changed = [(photos[0].ids[k], float(ious[0][k]), float(ious[1][k])) for k in order]
    configs = (storage.read_json(folder.config) for folder in (first, second))
    return Comparison(
        differences.between(*configs),
        differences.between(*(_environment(folder) for folder in (first, second))),
        figures,
        equal,
        total,
        sorted(mine.keys() ^ theirs.keys()),
        [entry for entry in changed if entry[1] != entry[2]],
        scored,
    )


def _figure(
    phase: str,
    name: str,
    pair: tuple[float, float],
    photos: tuple[intervals.Counts, intervals.Counts] | None,
) -> Figure:
    first, second = pair
    found = None
    if photos:
        found = intervals.compare([photos[1].pixels], [photos[0].pixels])
    verdict = NOISE if found and found.is_noise else DIFFERENT
    return Figure(phase, name, first, second, found, EQUAL if first == second else verdict)


def _photos_of(
    phase: str, first: Workdir, second: Workdir
) -> tuple[intervals.Counts, intervals.Counts] | None:
    """Returns what each photo scored in a phase of both runs, if they are the same photos."""
    ours, others = (details.read(folder.folder(phase)) for folder in (first, second))
    if ours is None or others is None or ours.photos.ids != others.photos.ids:
        return None
    return ours.photos, others.photos


def figures_of(folder: Workdir) -> dict[str, Mapping[str, Any]]:
    """Returns {phase: figures} of what is finished, by name.

    Raises:
      UserError: it is no workdir.
    """
    folder.classes()  # It says where there is no workdir.
    return {phase: folder.read_done(phase)["result"] for phase in folder.finished_phases()}


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all figures of a phase, {"name/name": value}."""
    return trees.flatten({name: value for name, value in result.items() if value != {}})


def _environment(folder: Workdir) -> dict[str, Any]:
    content = folder.read_manifest()
    left_out = ("config", "copied", "seed")
    kept = {name: value for name, value in content.items() if name not in left_out and value != {}}
    kept.get("data", {}).pop("state", None)
    return trees.unflatten(trees.flatten(kept))


def page(found: Comparison, first: Workdir, second: Workdir) -> str:
    """Draws a comparison, with the photos that changed most."""
    return pages.render(
        "compare.html",
        title="Comparison · auxseg_jax",
        heading="Two runs",
        first=str(first),
        second=str(second),
        found=found,
        photos=_pictures(found, first, second),
        colours=pages.legend(first.classes()),
    )


def _pictures(found: Comparison, first: Workdir, second: Workdir) -> list[dict[str, Any]]:
    config = first.read_config()
    data = journal.open_data(first, config)
    if data is None or not found.scored:
        return []
    index = {name: k for k, name in enumerate(data.ids(data.val_split))}
    stage, entries = found.scored.partition("/")[0], []
    photos = data.photos(data.val_split)
    for name, before, after in found.photos:
        photo = features.decode_image(photos[index[name]]["image"])
        pictures = [pages.photo(photo, "photo", f"the photo {name}")]
        for folder, iou, word in ((first, before, "first"), (second, after, "second")):
            path = folder.folder(stage) / "val" / f"{name}.png"
            if path.exists():
                over = contact_sheet.overlay(photo, images.read_plane(path))
                text = f"{word}: IoU {iou:.0f}%"
                pictures.append(pages.photo(over, text, f"prediction of the {word} run for {name}"))
        entries.append({"title": name, "images": pictures})
    return entries
