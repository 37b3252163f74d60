"""In which fields configs differ: from each other, and from the preset that they come from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from auxseg_jax import trees
from auxseg_jax.config import declared
from auxseg_jax.configs.fields import PRESETS, SECTIONS

ABSENT = "(absent)"


class Difference(NamedTuple):
    """A field in which two configs differ.

    Attributes:
      field: its name, "section.field".
      before: its value in the first; ABSENT where it has none.
      after: its value in the second.
      is_free: whether it says where and how something is computed, not what.
    """

    field: str
    before: Any
    after: Any
    is_free: bool


def between(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Returns the fields in which two configs, as JSON has them, differ."""
    old, new = (
        {name.replace("/", "."): value for name, value in trees.flatten(content).items()}
        for content in (first, second)
    )
    return [
        Difference(name, old.get(name, ABSENT), new.get(name, ABSENT), declared.is_free(name))
        for name in sorted(old | new)
        if old.get(name, ABSENT) != new.get(name, ABSENT)
    ]


def from_preset(config: ml_collections.ConfigDict) -> tuple[str, list[Difference]]:
    """Returns the preset that is nearest to a config, and the fields that differ from it.

    What presets do not know, the data set and the backbone, is left out.
    """
    content = _known(config.to_dict())
    found = {name: between(_preset(name), content) for name in PRESETS}
    name = min(found, key=lambda preset: len(found[preset]))
    return name, found[name]


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for section, fields in SECTIONS.items():
        if section == "data":
            continue
        part: Any = content
        for name in filter(None, section.split(".")):
            part = part.get(name, {})
        prefix = f"{section}." if section else ""
        flat |= {f"{prefix}{n}": _plain(part[n]) for n in fields if n in part}
    return flat


def _preset(preset: str) -> dict[str, Any]:
    flat = {}
    for section, fields in SECTIONS.items():
        if section == "data":
            continue
        prefix = f"{section}." if section else ""
        flat |= {f"{prefix}{name}": _plain(field.default) for name, field in fields.items()}
    return flat | {name: _plain(value) for name, value in PRESETS[preset].items()}


def _plain(value: Any) -> Any:
    """Returns lists for tuples."""
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
