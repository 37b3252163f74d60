"""Studies: what is compared, as rows of fields that differ."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.files import storage

_Fields = Mapping[str, Any]

_NONE: _Fields = {
    "affinity.pairwise": False,
    "affinity.unary": False,
    "affinity.refine": "none",
}

# With the walk that suits it.
_DOT: _Fields = {
    "affinity.cosine": 0.0,
    "affinity.whiten": False,
    "walk.steps": 1,
    "walk.restart": 0.5,
}


@dataclasses.dataclass(frozen=True)
class Study:
    """Rows to compare; the first is what the others are compared with.

    Attributes:
      title: what is asked, in a sentence.
      rows: {name: {field: value}}; the field "words" holds words for the config's name.
    """

    title: str
    rows: Mapping[str, _Fields]


STUDIES: dict[str, Study] = {
    "affinity": Study(
        "Do learned affinities help, and which? The papers' ablation of affinities.",
        {
            "none": _NONE,
            "own": {
                "affinity.unary": False,
                "affinity.cross_task": False,
                "affinity.refine": "seg",
            },
            "cross_seg": {"affinity.unary": False, "affinity.refine": "seg"},
            "pairwise": {"affinity.unary": False},
            "unary": {"affinity.pairwise": False},
            "dual": {},
        },
    ),
    "dual": Study(
        "Does dual affinity help? The short form of `affinity`.",
        {"none": _NONE, "pairwise": {"affinity.unary": False}, "dual": {}},
    ),
    "tasks": Study(
        "Does the saliency task help, and do affinities across the tasks?",
        {"cls": {"tasks.sal": False, **_NONE}, "cls_sal": _NONE, "cls_sal_affinity": {}},
    ),
    "stages": Study(
        "How many stages?", {str(count): {"stages.count": count} for count in (1, 2, 3, 4)}
    ),
    "update": Study(
        "Does the update of the labels help, or is it that the network trains for longer?",
        {"initial": {"stages.update_labels": False}, "updated": {}},
    ),
    "saliency": Study(
        "What do saliency maps bring?", {"none": {"data.saliency": "none"}, "given": {}}
    ),
    "similarity": Study(
        "Affinities by the cosine or by the dot product of the papers?",
        {
            "dot": _DOT,
            "scaled": {**_DOT, "affinity.scale": True},
            "whitened": {**_DOT, "affinity.scale": True, "affinity.whiten": True},
            "cosine": {},
        },
    ),
    "windows": Study(
        "Should photos larger than the training crop be seen through windows of its size?",
        {
            "whole": {f"{s}.windows": False for s in ("predict", "post", "label_update")},
            "windows": {},
        },
    ),
    "padding": Study(
        "Should the padding of a crop be hidden from the network in training, as at test?",
        {"seen": {"model.mask_padding": False}, "masked": {}},
    ),
    "averaging": Study(
        "Do moving averages of the parameters help, with affinities and without?",
        {
            "none": _NONE,
            "none_ema": {**_NONE, "optimizer.ema": 0.98},
            "dual": {},
            "dual_ema": {"optimizer.ema": 0.98},
        },
    ),
    "walk": Study(
        "How far should a CAM walk, and how is it scaled then?",
        {
            "none": {"walk.steps": 0},
            "default": {},
            "step_1": {"walk.steps": 1},
            "steps_16": {"walk.steps": 16},
            "beta_2": {"walk.beta": 2.0},
            "restart": {"walk.restart": 0.5},
            "no_restart": {"walk.restart": 0.0},
            "maximum": {"label_update.rescale": "maximum"},
            "histogram": {"label_update.rescale": "histogram"},
        },
    ),
    "presets": Study(
        "Which preset?",
        {"plus": {"words": "plus"}, "paper": {"words": "paper"}, "official": {"words": "official"}},
    ),
    "backbones": Study(
        "Which backbone? Those past the first start from files of weights.",
        {name: {"words": name} for name in ("efficientnet_lite0", "resnet50", "resnet38")},
    ),
}
"""The studies that come with the package; see docs/studies.md."""


def find(name: str) -> Study:
    """Returns a study that comes with the package, or that of a JSON file.

    Args:
      name: its name, or a file {"title": ..., "rows": {name: {field: value}}}.

    Raises:
      UserError: there is none, or the file is of another form.
    """
    if name in STUDIES:
        return STUDIES[name]
    path = epath.Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"--study={name}: there is no such file, and no such study; there are "
            f"{', '.join(STUDIES)}"
        )
    try:
        content = json.loads(storage.read_text(path), object_pairs_hook=storage.unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON, or no study: {error}") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows or not all(map(_is_row, rows.values())):
        raise UserError(
            f'{path}: expected {{"title": "...", "rows": {{"name": {{"field": value}}}}}}'
        )
    if extra := sorted(content.keys() - {"title", "rows"}):
        raise UserError(f"{path}: {extra[0]!r} is not known; there are title and rows")
    for row, fields in rows.items():
        if not re.fullmatch(r"\w[\w.+-]{,99}", row):
            raise UserError(f"{path}: the row {row!r} names a folder; use letters, digits and _")
        if bad := [name for name in fields if not re.fullmatch(r"\w[\w.]*", name)]:
            raise UserError(f"{path}: row {row!r} has {bad[0]!r}, which is no field")
        if not isinstance(fields.get("words", ""), str):
            raise UserError(f"{path}: the words of row {row!r} are one text, parted by commas")
        if "seed" in fields:
            raise UserError(f"{path}: row {row!r} names a seed; --seeds says which there are")
    return Study(str(content.get("title", path.stem)), rows)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict)


def flags(config: str, overrides: Sequence[str], fields: _Fields, seed: int) -> list[str]:
    """Returns the flags that give a row's config.

    Args:
      config: name of the config, perhaps with words.
      overrides: flags of all rows.
      fields: the row.
      seed: the seed.
    """
    name, colon, words = config.partition(":")
    if "words" in fields:
        words, colon = ",".join(filter(None, (words, fields["words"]))), ":"
    values = {key: value for key, value in fields.items() if key != "words"} | {"seed": seed}
    own = [f"--config.{key}={value}" for key, value in values.items()]
    return [f"--config={name}{colon}{words}", *overrides, *own]
