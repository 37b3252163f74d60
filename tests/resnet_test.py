"""ResNet-50 and -101 against torchvision 0.29 (torch 2.15), with weights from a formula.

tests/data/torchvision_resnet.npz holds every 128th channel of layer4's output, in NHWC.
"""

import math
import pathlib
import zlib

import jax
import numpy as np
import pytest
from conftest import state_dict

from auxseg_jax.devices import compilation
from auxseg_jax.models import resnet
from auxseg_jax.weights import names, pretrained

RECORDED = pathlib.Path(__file__).parent / "data" / "torchvision_resnet.npz"


def weights_for(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    module, leaf = key.rsplit(".", 1)
    if len(shape) > 1:
        return (rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)
    if leaf in ("weight", "running_var"):
        return rng.uniform(0.8, 1.2, shape).astype(np.float32) * np.float32(
            0.3 if module.endswith("bn3") else 1
        )
    return (rng.standard_normal(shape) * (0.05 if leaf == "bias" else 0.1)).astype(np.float32)


@pytest.mark.parametrize(("make", "stride"), [(resnet.ResNet50, 8), (resnet.ResNet101, 16)])
@pytest.mark.slow
def test_features_are_torchvisions(make, stride):
    module = make(output_stride=stride)
    image = np.random.default_rng(5).standard_normal((1, 66, 78, 3)).astype(np.float32)
    template = jax.eval_shape(lambda x: module.init(jax.random.key(0), x)["params"], image)
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), template)
    state = {
        key: weights_for(key, value.shape)
        for key, value in state_dict(blank, names.backbone_naming("resnet50")).items()
    }
    params, report = pretrained.place({"backbone": template}, state, make.__name__.lower())
    assert not report.has_faults, report
    params = params["backbone"]
    found = compilation.jit(module.apply)({"params": params}, image).features[0, :, :, ::128]
    wanted = np.load(RECORDED)[f"{make.__name__.lower()}_stride{stride}"]
    np.testing.assert_allclose(found, wanted, atol=2e-5 * wanted.std())
