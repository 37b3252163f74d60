"""Converts weight files to safetensors, with our names and with PyTorch's: `auxseg weights`."""

import re
from collections.abc import Mapping

import jax
import numpy as np
import safetensors.numpy
from etils import epath

from auxseg_jax import trees
from auxseg_jax.errors import UserError
from auxseg_jax.models import auxsegnet
from auxseg_jax.models.backbones import BACKBONES
from auxseg_jax.weights import names
from auxseg_jax.weights.pretrained import Report, place, read

PARAMS, STATE_DICT = "params.safetensors", "state_dict.safetensors"

# The authors' network, into which any foreign weights fit.
_OFFICIAL_MODEL = {"channels": 128, "dilations": (6, 12, 18), "head_conv": True, "dropout": 0.5}
_OFFICIAL_AFFINITY = {
    "pairwise": True,
    "unary": False,
    "cross_task": True,
    "refine": "both",
    "whiten": False,
    "scale": False,
    "cosine": 0.0,
    "normalize_rows": False,
}


def convert(source: epath.PathLike, output: epath.PathLike) -> Report:
    """Reads a weight file and writes PARAMS and STATE_DICT into a folder.

    The state dict has the names and layout of the authors' checkpoint where it can (ResNet38 with
    both branches), else of the backbone alone. It is left out for a backbone without PyTorch
    weights. What the authors' network has and never uses comes from `source`, or is neutral: their
    code loads strictly.

    Args:
      source: see `pretrained.read`.
      output: folder.

    Raises:
      UserError: it does not fit the network its names speak of; nothing is written then.
    """
    state = read(source)
    backbone = _find_backbone(state)
    try:
        if any(name.startswith("backbone/") for name in state):  # Whatever its switches were.
            flat, report = state, Report("parameters of this package", matched=list(state))
        else:
            flat, report = _place_foreign(state, backbone)
    except UserError as error:
        raise UserError(f"{source} cannot be converted: {error}") from error
    exported, unnamed = _export(flat, state, backbone)
    report.not_exported += unnamed
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / PARAMS).write_bytes(_pack(flat))
    if exported:
        (output / STATE_DICT).write_bytes(_pack(exported))
    else:  # One that is there already belongs to other weights.
        (output / STATE_DICT).unlink(missing_ok=True)
    return report


def _find_backbone(state: Mapping[str, np.ndarray]) -> str:
    """Returns the backbone of a state dict with names of either kind; empty if there is none."""
    entries = [name.removeprefix("backbone/") for name in state]
    for backbone, record in BACKBONES.items():
        signature = record.signature
        if signature and any(re.match(signature, entry) for entry in entries):
            return backbone
    return ""


def _place_foreign(
    state: Mapping[str, np.ndarray], backbone: str
) -> tuple[dict[str, np.ndarray], Report]:
    """Returns the parameters of a file with other names: of the whole network, or a backbone."""
    if not backbone:
        shown = ", ".join(list(state)[:5])
        raise UserError(f"these are weights of no network known here: {shown}")
    is_whole = names.is_auxsegnet(state)
    network = auxsegnet.build(
        num_classes=state["fc8.weight"].shape[0] if is_whole else 1,
        model={"backbone": BACKBONES[backbone].section(backbone), **_OFFICIAL_MODEL},
        affinity=_OFFICIAL_AFFINITY,
        tasks={"cls": True, "sal": True},
    )
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    template = jax.eval_shape(lambda x: network.init(jax.random.key(0), x)["params"], image)
    if not is_whole:
        template = {"backbone": template["backbone"]}
    params, report = place(template, state, backbone)
    if report.has_faults:
        raise UserError(str(report))
    return trees.flatten(params), report


def _export(
    flat: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], backbone: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the state dict of PyTorch, and the parameters that have no name in it."""
    # By the cosine there is no phi, and the authors' code has no other affinity.
    is_whole = backbone == names.AUXSEGNET_BACKBONE and "seg_affinity/phi/kernel" in flat
    keys = {}
    if is_whole:
        keys = names.keys_of(flat, names.auxsegnet)
    elif backbone and (naming := names.backbone_naming(backbone)):
        keys = names.keys_of(flat, naming, "backbone/")
    exported = {key: names.from_layout(name, flat[name]) for name, key in keys.items()}
    if is_whole:
        unused = names.unused(flat["seg_branch/conv_1/kernel"].shape[-1])
        exported |= {key: state.get(key, value) for key, value in unused.items()}
    return exported, [name for name in flat if name not in keys]


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    )
