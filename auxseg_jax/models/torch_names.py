"""Names and layouts of PyTorch state dicts: which tensor of one is which parameter here, both ways.

A naming is a function from a parameter's path here to its key there; it serves reading and writing alike.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from auxseg_jax import trees

Naming = Callable[[str], str]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_AUXSEGNET = {"cls_head": "fc8", "cross_pairwise/conv_3x3": "cross_att.0", "cross_pairwise/conv_1x1": "cross_att.2"} | {
    f"{task}_{ours}": f"{task}_{theirs}"
    for task in ("seg", "sal")
    for ours, theirs in {
        "branch/conv_1": "conv1",
        "branch/conv_2": "conv2",
        "head/conv": "conv3",
        "head/predict": "conv4",
        "affinity/theta": "att.theta",
        "affinity/phi": "att.phi",
        "affinity/g": "g",
        "affinity/W": "W",
    }.items()
}
AUXSEGNET_UNUSED = (r"(seg|sal)_att\.(g|W_z\.[01])\..*", r".*\.num_batches_tracked")
"""Keys of the authors' checkpoints that their network never uses."""


def resnet38(path: str) -> str:
    """Key of a backbone parameter in the ResNet38 weights that go round."""
    module, _, leaf = path.rpartition("/")
    return f"{module.replace('/', '.')}.{_LEAVES[leaf]}"


def torchvision_resnet(path: str) -> str:
    """Key of a backbone parameter in torchvision's ResNets."""
    module, _, leaf = path.rpartition("/")
    module = re.sub(r"^layer(\d)_(\d+)/", r"layer\1.\2.", module)
    module = module.replace("downsample_bn", "downsample.1") if "downsample_bn" in module else module.replace("downsample", "downsample.0")
    return f"{module}.{_LEAVES[leaf]}"


def auxsegnet(path: str) -> str:
    """Key of a parameter of the network in the authors' checkpoints; KeyError for what AuxSegNet does not have."""
    if path.startswith("backbone/"):
        return resnet38(path.removeprefix("backbone/"))
    module, _, leaf = path.rpartition("/")
    return f"{_AUXSEGNET[module]}.{_LEAVES[leaf]}"


def to_params(template: Mapping, state: Mapping[str, np.ndarray], naming: Naming, *, excused: tuple[str, ...] = ()) -> dict:
    """The tree of `template` (leaves with shape and dtype) filled from a state dict; every name and shape must agree.

    Args:
      template: parameters here.
      state: key -> array.
      naming: path here -> key.
      excused: patterns of keys of `state` that may be there without a place here.

    Raises:
      ValueError: lists everything that is missing, extra or of another shape.
    """
    want = {name: (naming(name), leaf) for name, leaf in trees.flatten(template).items()}
    have = {name: _here(state[key], len(leaf.shape)) for name, (key, leaf) in want.items() if key in state}
    used = {key for key, _ in want.values()}
    have |= {key: value for key, value in state.items() if key not in used and not trees.matches(key, excused)}
    return trees.merge_strict(template, trees.unflatten(have))


def to_state_dict(params: Mapping, naming: Naming) -> dict[str, np.ndarray]:
    """The inverse: key -> array in torch's layout."""
    return {naming(name): _there(name, np.asarray(leaf)) for name, leaf in trees.flatten(params).items()}


def _here(value: np.ndarray, ndim: int) -> np.ndarray:
    """OIHW -> HWIO; convolutions that are matrix products here (ndim 2) and linear layers -> IO."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value.reshape(value.shape[2:]) if ndim == 2 and value.shape[:2] == (1, 1) else value
    return value.T if value.ndim == 2 else value


def _there(name: str, value: np.ndarray) -> np.ndarray:
    if not name.endswith("kernel"):
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T[:, :, None, None]
