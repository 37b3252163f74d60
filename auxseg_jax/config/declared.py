"""The declared fields of a config, as `configs/fields.py` has them, and what follows from them."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from auxseg_jax.config.field import Field
from auxseg_jax.configs.fields import DATA_FIELDS, SECTIONS
from auxseg_jax.errors import UserError
from auxseg_jax.models import backbones

RENAMED = {
    "model.dtype": "model.precision (float32 is tensorfloat32 there)",
    "label_update.renormalize": "label_update.rescale (True is maximum there, False is none)",
}
"""{field of an older version: its name now}."""

_BACKBONE_NAME = Field("", "Which backbone; see the table below.")


def fields_of(config: Mapping[str, Any]) -> dict[str, dict[str, Field]]:
    """Returns {section: {field: declaration}} of a config, with those of its data and backbone.

    Raises:
      UserError: there is no builder or no backbone of the config's name.
    """
    for name in SECTIONS:
        _check_section(config, name)
    _check_section(config, "model.backbone")
    builder = config.get("data", {}).get("builder", "")
    if str(builder) not in DATA_FIELDS:
        raise UserError(f"data.builder={builder!r} is not one of {', '.join(DATA_FIELDS)}")
    backbone = backbones.find(str(config.get("model", {}).get("backbone", {}).get("name", "")))
    return SECTIONS | {
        "data": SECTIONS["data"] | DATA_FIELDS[builder],
        "model.backbone": {"name": _BACKBONE_NAME, **backbone.fields},
    }


def _check_section(config: Mapping[str, Any], name: str) -> None:
    """Raises UserError where a value stands in place of a section; absent ones are no matter."""
    content: Any = config
    for part in filter(None, name.split(".")):
        content = content.get(part, {})
        if not isinstance(content, Mapping | ml_collections.ConfigDict):
            raise UserError(f"{name}={content!r}: must be a section of the config")


def is_free(name: str) -> bool:
    """Returns whether a field, named "section/field", may change when a run goes on."""
    section, _, field = name.replace("/", ".").rpartition(".")
    declaration = SECTIONS.get(section, {}).get(field)
    return declaration is not None and declaration.free


def complete(content: dict[str, Any]) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Makes a config of what an older version wrote.

    Fields that it did not know get the values that do what was done without them. Fields that have
    another name now are renamed.

    Args:
      content: a config as JSON gives it.

    Returns:
      The config, and the names of the fields that were added.
    """
    model = content.get("model", {})
    if isinstance(model, dict) and "dtype" in model:  # Versions before 0.3.
        precision = "bfloat16" if model.pop("dtype") == "bfloat16" else "tensorfloat32"
        model.setdefault("precision", precision)
    label_update = content.get("label_update", {})
    if isinstance(label_update, dict) and "renormalize" in label_update:  # Versions before 0.8.
        is_scaled = label_update.pop("renormalize")
        label_update.setdefault("rescale", "maximum" if is_scaled else "none")
    added = add_defaults(content, as_before=True)
    return ml_collections.ConfigDict(content), added


def add_defaults(
    content: dict[str, Any] | ml_collections.ConfigDict, as_before: bool = False
) -> list[str]:
    """Adds the fields that a config lacks, with their defaults, and returns their names.

    Args:
      content: changed in place.
      as_before: of a run of an older version, which goes on as it began.

    Raises:
      UserError: see `fields_of`.
    """
    added = []
    for section, known in fields_of(content).items():
        target = content
        for part in filter(None, section.split(".")):
            if part not in target:
                target[part] = {}
            target = target[part]
        for name, field in known.items():
            if name not in target:
                is_older = as_before and field.before is not None
                target[name] = field.before if is_older else field.default
                added.append(f"{section}.{name}" if section else name)
    return added
