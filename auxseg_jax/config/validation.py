"""Whether a config can be used: asked before anything is read or compiled."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from auxseg_jax.config import declared
from auxseg_jax.config.field import Field
from auxseg_jax.errors import UserError, collect, fault


def checked(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Checks every field of a config, and fields that must agree.

    Returns:
      A copy of the config, in which fields that it lacks have their defaults.

    Raises:
      UserError: lists every unknown field, and every value out of its range.
    """
    config = config.copy_and_resolve_references().unlock()
    with collect() as faults:
        declared.add_defaults(config)
        fields = declared.fields_of(config)
        for section, known in fields.items():
            content = _section(config, section)
            nested = {name.rpartition(".")[2] for name in fields if _parent(name) == section}
            _check_names(section, set(content) - nested, known)
        if not faults:
            for section, known in fields.items():
                content = _section(config, section)
                _check_values(section, {name: content[name] for name in known}, known)
        if not faults:
            _check_agreement(config)
    if faults:
        raise UserError("\n  ".join(["the config cannot be used:", *faults]), faults)
    return config


def _parent(section: str) -> str | None:
    """Returns the section in which a section stands; None for the outermost."""
    return section.rpartition(".")[0] if section else None


def _section(config: ml_collections.ConfigDict, section: str) -> Mapping[str, Any]:
    """Returns a section's content; an absent one is empty."""
    content = config
    for part in filter(None, section.split(".")):
        content = content.get(part, {})
    return content


def _check_names(section: str, names: set[str], known: Mapping[str, Field]) -> None:
    if not section:
        for name in sorted(names - set(known)):
            fault(f"{name}: there is no such section")
    else:
        existing = ", ".join(sorted(known))
        for name in sorted(names - set(known)):
            renamed = declared.RENAMED.get(f"{section}.{name}")
            advice = f"it is {renamed} now" if renamed else f"there are {existing}"
            fault(f"{section}.{name}: there is no such field; {advice}")


def _check_values(section: str, values: Mapping[str, Any], known: Mapping[str, Field]) -> None:
    for name, field in known.items():
        if message := field.fault(_dotted(section, name), values[name]):
            fault(message)


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _check_agreement(config: ml_collections.ConfigDict) -> None:
    spill, cam = config.fuse.spill_threshold, config.fuse.cam_threshold
    if spill < cam:
        fault(f"fuse.spill_threshold={spill}: must not be below fuse.cam_threshold={cam}")
    if config.supervision == "image_labels" and not config.tasks.cls:
        fault(
            "tasks.cls=False: without the classification branch there are no CAMs to make labels "
            "from (supervision=image_labels)"
        )
    if len(config.model.dilations) != 3:
        fault(
            "model.dilations needs 3 rates (two of the branch, one of the head), "
            f"got {config.model.dilations}"
        )
    if config.model.mask_padding and config.augment.padding_is_background:
        fault(
            "augment.padding_is_background=True counts in the losses what the network does not "
            "see: set model.mask_padding=False, or augment.padding_is_background=False"
        )
    affinity, channels = config.affinity, config.model.channels
    if affinity.refine != "none" and not (affinity.pairwise or affinity.unary):
        fault(
            f"affinity.refine={affinity.refine!r} needs affinity.pairwise or affinity.unary; "
            "with neither, set it to 'none'"
        )
    if affinity.scale and affinity.cosine:
        fault(
            "affinity.scale=True is of the dot product: set affinity.cosine=0, or "
            "affinity.scale=False"
        )
    if channels % affinity.heads:
        fault(f"affinity.heads={affinity.heads} does not divide model.channels={channels}")
