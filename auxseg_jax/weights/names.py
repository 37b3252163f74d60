"""Names and layouts of PyTorch state dicts: which of its tensors is which parameter, both ways.

A naming is a function from a parameter's path here to its key there. It serves reading and writing
alike. That of a backbone comes from its record (`models.backbone.Backbone.torch_module`).
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from auxseg_jax.models.backbones import find

Naming = Callable[[str], str]

AUXSEGNET_BACKBONE = "resnet38"
"""The backbone of the authors' checkpoints."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_TASK_MODULES = {
    "branch/conv_1": "conv1",
    "branch/conv_2": "conv2",
    "head/conv": "conv3",
    "head/predict": "conv4",
    "affinity/theta": "att.theta",
    "affinity/phi": "att.phi",
    "affinity/g": "g",
    "affinity/W": "W",
}
_AUXSEGNET_MODULES = {
    "cls_head": "fc8",
    "cross_pairwise/conv_3x3": "cross_att.0",
    "cross_pairwise/conv_1x1": "cross_att.2",
    **{
        f"{task}_{module}": f"{task}_{torch_module}"
        for task in ("seg", "sal")
        for module, torch_module in _TASK_MODULES.items()
    },
}

EXCUSED = (
    r"(seg|sal)_att\.(g|W_z\.[01])\..*",
    r".*\.num_batches_tracked",
    r"(fc|_fc|linear1000)\..*",
    r"(_conv_head|_bn1)\..*",
)
"""Keys that may be in a file without a place here.

They are what the authors' network never uses, counters, ImageNet's classifier, and the layer before
it (of EfficientNet-Lite0 with head=False).
"""


def backbone_naming(backbone: str) -> Naming | None:
    """Returns the naming of a backbone's parameters, or None if there are no PyTorch weights."""
    torch_module = find(backbone).torch_module
    if torch_module is None:
        return None

    def name(path: str) -> str:
        module, _, leaf = path.rpartition("/")
        return f"{torch_module(module)}.{_LEAVES[leaf]}"

    return name


def auxsegnet(path: str) -> str:
    """Returns the key of a parameter in the authors' checkpoints.

    Raises:
      KeyError: AuxSegNet does not have it.
    """
    if path.startswith("backbone/"):
        return backbone_naming(AUXSEGNET_BACKBONE)(path.removeprefix("backbone/"))
    module, _, leaf = path.rpartition("/")
    return f"{_AUXSEGNET_MODULES[module]}.{_LEAVES[leaf]}"


def is_auxsegnet(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state dict is a checkpoint of the authors' whole network."""
    return "fc8.weight" in state and "seg_conv1.weight" in state


def keys_of(names: Iterable[str], naming: Naming, prefix: str = "") -> dict[str, str]:
    """Returns {name: key} of the parameters under `prefix` that the naming knows.

    The naming is asked without the prefix.
    """
    keys = {}
    for name in names:
        if name.startswith(prefix):
            with contextlib.suppress(KeyError):  # Those weights do not have this part.
                keys[name] = naming(name.removeprefix(prefix))
    return keys


def unused(channels: int) -> dict[str, np.ndarray]:
    """Returns what the authors' checkpoints hold beside that.

    These are layers of their affinity blocks that never run, here neutral.
    """
    vectors = {
        "weight": np.ones,
        "bias": np.zeros,
        "running_mean": np.zeros,
        "running_var": np.ones,
    }
    state = {}
    for task in ("seg", "sal"):
        for layer in ("g", "W_z.0"):
            kernel = np.zeros((channels, channels, 1, 1), np.float32)
            state[f"{task}_att.{layer}.weight"] = kernel
            state[f"{task}_att.{layer}.bias"] = np.zeros(channels, np.float32)
        for leaf, make in vectors.items():
            state[f"{task}_att.W_z.1.{leaf}"] = make(channels, np.float32)
    return state


def to_layout(value: np.ndarray, ndim: int) -> np.ndarray:
    """Turns torch's layout into ours.

    OIHW becomes HWIO; linear layers, and convolutions that are matrix products here (`ndim` 2),
    become IO.
    """
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value.reshape(value.shape[2:]) if ndim == 2 and value.shape[:2] == (1, 1) else value
    return value.T if value.ndim == 2 else value


def from_layout(name: str, value: np.ndarray) -> np.ndarray:
    """Inverts `to_layout`, for the parameter of that name."""
    if not name.endswith("kernel"):
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T[:, :, None, None]
