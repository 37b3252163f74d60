"""What the configs share: presets, backbones and data sets, by name."""

from collections.abc import Iterable
from typing import Any

import ml_collections

from auxseg_jax.configs.fields import DATA_FIELDS, PRESETS, SECTIONS
from auxseg_jax.models.backbones import BACKBONES

# The tiny backbone is for configs that name it themselves.
_BACKBONE_WORDS = tuple(name for name in BACKBONES if name != "tiny")
_STRIDE_OF_DILATIONS = 8


def get_config(preset: str = "plus") -> ml_collections.ConfigDict:
    """Returns the method on a data set and with a backbone that the caller fills in.

    Args:
      preset: a key of `fields.PRESETS`.
    """
    if preset not in PRESETS:
        raise ValueError(f"the preset {preset!r} is not one of {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict()
    for section, declared in SECTIONS.items():
        target = config
        for part in filter(None, section.split(".")):
            if part not in target:
                target[part] = {}
            target = target[part]
        for name, field in declared.items():
            target[name] = field.default
    config.model.backbone = {"name": "", "output_stride": 8}
    with config.unlocked():
        config.update_from_flattened_dict(PRESETS[preset])
    return config


def with_words(
    arg: str, file: str, *, backbone: str, others: Iterable[str] = ()
) -> tuple[ml_collections.ConfigDict, set[str]]:
    """Returns the config of the words after a file's name, and the words.

    Args:
      arg: a preset, a backbone, and what else the file knows, in any combination, with commas.
      file: name of the file, for messages.
      backbone: the backbone where no word names one.
      others: what else the file knows.
    """
    words = set(arg.split(",")) - {""}
    known = (*others, *PRESETS, *_BACKBONE_WORDS)
    if unknown := words - set(known):
        unknown_words = ", ".join(sorted(unknown))
        raise ValueError(f"{file} knows {', '.join(known)}; not {unknown_words}")
    config = get_config(preset_of(words))
    set_backbone(config, _one_of(_BACKBONE_WORDS, words) or backbone)
    return config, words


def preset_of(words: Iterable[str]) -> str:
    """Returns the preset that is among the words, else `plus`."""
    return _one_of(PRESETS, words) or "plus"


def _one_of(names: Iterable[str], words: Iterable[str]) -> str | None:
    chosen = [name for name in names if name in words]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} exclude each other")
    return chosen[0] if chosen else None


def set_backbone(config: ml_collections.ConfigDict, name: str, **fields: Any) -> None:
    """Sets the backbone with its default fields, the paper's dilations at its stride, and what of
    it is frozen.

    Args:
      config: changed in place.
      name: a key of `backbones.BACKBONES`.
      **fields: fields of the backbone with other values than its defaults.
    """
    record = BACKBONES[name]
    config.model.backbone = record.section(name, **fields)
    stride = config.model.backbone.get("output_stride", record.stride)
    rates = SECTIONS["model"]["dilations"].default
    config.model.dilations = tuple(rate * _STRIDE_OF_DILATIONS // stride for rate in rates)
    config.optimizer.frozen = record.frozen


def set_data(config: ml_collections.ConfigDict, builder: str, **fields: Any) -> None:
    """Sets the data set, with the default fields of its builder.

    Args:
      config: changed in place.
      builder: a key of `fields.DATA_FIELDS`.
      **fields: fields of `data` with other values than the defaults.
    """
    defaults = {name: field.default for name, field in DATA_FIELDS[builder].items()}
    config.data.update({"builder": builder, **defaults, **fields})
