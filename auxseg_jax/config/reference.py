"""Writes docs/configuration.md from the declared fields: `make docs`."""

import sys

from auxseg_jax.config.field import Field
from auxseg_jax.configs import common
from auxseg_jax.configs.fields import DATA_FIELDS, PRESETS, SECTIONS
from auxseg_jax.models.backbones import BACKBONES

_HEAD = """# Configuration reference

This page is made from `configs/fields.py` by `make docs`. A config is a Python file that returns an
`ml_collections.ConfigDict`; see `configs/`. Name one that comes with the package, or a file of your
own, and set single fields on the command line:

```
auxseg train --config=voc:official --config.data.root=DIR --config.stages.count=2 --workdir=W
```

The column `plus` holds the defaults. `paper` and `official` are shown where they differ. *Free*
fields may change when a run goes on. Every config sets a few more fields: read its file.
"""


def _cell(value: object) -> str:
    text = repr(value) if value != "" else "(empty)"
    return f"`{text}`" if value != "" else text


def _row(name: str, field: Field, others: dict[str, str]) -> str:
    shown = [_cell(field.default), *(others.get(preset, "") for preset in ("paper", "official"))]
    cells = [f"`{name}`", *(cell.replace("|", "\\|") for cell in shown)]
    return f"| {' | '.join([*cells, _meaning(field)])} |"


def _meaning(field: Field) -> str:
    notes = [field.help]
    if field.range is not None:
        notes.append(f"({field.range.text.replace('is not one of', 'one of')})")
    if field.free:
        notes.append("*Free.*")
    return " ".join(notes).replace("|", "\\|")


def _tables() -> list[str]:
    lines = []
    for section, fields in SECTIONS.items():
        title = f"`{section}`" if section else "Top level"
        lines += [
            f"\n## {title}\n",
            "| field | plus | paper | official | meaning |",
            "|---" * 5 + "|",
        ]
        for name, field in fields.items():
            full = f"{section}.{name}" if section else name
            others = {
                preset: _cell(changes[full])
                for preset, changes in PRESETS.items()
                if full in changes
            }
            lines.append(_row(full, field, others))
    return lines


def _data_tables() -> list[str]:
    lines = [
        "\n## `data`, by builder\n",
        "| builder | field | default | meaning |",
        "|---|---|---|---|",
    ]
    for builder, fields in DATA_FIELDS.items():
        for name, field in fields.items():
            cells = [f"`{builder}`", f"`data.{name}`", _cell(field.default), _meaning(field)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _backbone_tables() -> list[str]:
    lines = ["\n## `model.backbone`, by name\n", "| name | weights |", "|---|---|"]
    for name, record in BACKBONES.items():
        weights = "a file (`pretrained.path`)" if record.torch_module else "none"
        if record.imagenet:
            weights = f"ImageNet, of the package {record.imagenet.requirement}; or a file"
        lines.append(f"| `{name}` | {weights} |")
    lines += ["", "| name | field | default | meaning |", "|---" * 4 + "|"]
    for name, record in BACKBONES.items():
        for field, declared in record.fields.items():
            cells = [f"`{name}`", f"`model.backbone.{field}`", _cell(declared.default)]
            lines.append(f"| {' | '.join([*cells, _meaning(declared)])} |")
    return lines


def render() -> str:
    """Returns the page."""
    common.get_config()  # A field that cannot be set fails here.
    return "\n".join([_HEAD.rstrip(), *_tables(), *_data_tables(), *_backbone_tables(), ""])


if __name__ == "__main__":
    sys.stdout.write(render())
