"""The table of backbones, and what a config's `model.backbone` says by it."""

from collections.abc import Mapping
from typing import Any

from auxseg_jax.errors import UserError
from auxseg_jax.models import efficientnet_lite, resnet, resnet38, tiny
from auxseg_jax.models.backbone import Backbone

# Weights are recognised by the first signature that matches: ResNet-101 has ResNet-50's blocks,
# too.
BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": efficientnet_lite.BACKBONE,
    "resnet38": resnet38.BACKBONE,
    "resnet101": resnet.RESNET101,
    "resnet50": resnet.RESNET50,
    "tiny": tiny.BACKBONE,
}


def find(name: str) -> Backbone:
    """Returns the backbone of that name; UserError if there is none."""
    if name not in BACKBONES:
        raise UserError(f"model.backbone.name={name!r} is not one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def normalisation(backbone: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Returns {"mean", "std"} on the 0..255 scale of RGB, for the section `model.backbone`."""
    record = find(backbone["name"])
    return {"mean": record.mean, "std": record.std}


def output_stride(backbone: Mapping[str, Any]) -> int:
    """Returns the pixels a cell of the features, for the section `model.backbone`."""
    return backbone.get("output_stride", find(backbone["name"]).stride)
