"""The authors' network in numbers: weights made from a formula, and what it gives with them.

The weights depend on nothing but their name in the authors' code, their shape and a seed, so that
nothing large is stored. official.npz holds a generated image and the outputs that the authors'
PyTorch code gave for it in float32 (ResNet38, 20 classes, seed 0), of the affinity some rows.
"""

import functools
import math
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from auxseg_jax import trees
from auxseg_jax.configs import common
from auxseg_jax.devices import compilation
from auxseg_jax.models import auxsegnet
from auxseg_jax.runs import build
from auxseg_jax.weights import names, pretrained

_FILE = pathlib.Path(__file__).parent / "official.npz"
_CLASSES = 20


def weights_for(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Returns the weights of a key of PyTorch's state dict, in PyTorch's layout."""
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    module, leaf = key.rsplit(".", 1)
    if any(part.startswith("bn") for part in module.split(".")):
        if leaf in ("weight", "running_var"):
            return rng.uniform(0.8, 1.2, shape).astype(np.float32)
        return (rng.standard_normal(shape) * (0.05 if leaf == "bias" else 0.1)).astype(np.float32)
    if leaf == "bias":
        return (rng.standard_normal(shape) * 0.01).astype(np.float32)
    scale = math.sqrt(2 / math.prod(shape[1:])) * _gain(key)
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def _gain(key: str) -> float:
    """Returns a factor that keeps activations and affinities in a useful range."""
    if re.match(r"b[2-5](_\d)?\.conv_branch2b1\.|b[67]\.conv_branch2b2\.", key):
        return 0.3
    if re.search(r"\.(theta|phi)\.weight$", key):
        return 0.4
    return {"fc8.weight": 0.3, "cross_att.0.weight": 10.0, "cross_att.2.weight": 2.0}.get(key, 1.0)


def network(precision: str = "highest") -> auxsegnet.AuxSegNet:
    """Returns the authors' network."""
    return build.network(_config(precision), _CLASSES)


def _config(precision: str = "highest") -> ml_collections.ConfigDict:
    config = common.get_config("official")
    common.set_backbone(config, "resnet38")
    config.model.precision = precision
    return config


@functools.cache
def weights(seed: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns the parameters of the network, and the state dict that they were made from."""
    template = build.abstract_params(_config(), network())
    shapes = {
        name: names.from_layout(name, np.broadcast_to(np.float32(0), leaf.shape)).shape
        for name, leaf in trees.flatten(template).items()
    }
    state = {
        key: weights_for(key, shapes[name], seed)
        for name, key in names.keys_of(shapes, names.auxsegnet).items()
    }
    params, report = pretrained.place(template, state, "resnet38")
    if report.has_faults:
        raise ValueError(str(report))
    return params, state


def worst_errors(precision: str) -> dict[str, float]:
    """Runs the network on the default device.

    Returns:
      The largest absolute differences from the authors' outputs: of the logits "cls", the raw
      "cam", the refined logits "seg" and "sal", and the fused "affinity".
    """
    recorded = dict(np.load(_FILE))
    model, (params, _) = network(precision), weights(0)
    rows = jnp.asarray(recorded["affinity_rows"])

    def run(params: dict, photo: jax.Array) -> dict[str, jax.Array]:
        image = auxsegnet.normalize(model, photo, jnp.ones(photo.shape[:3], bool))
        outputs = model.apply({"params": model.cast(params)}, image)
        return {
            "cls": outputs["cls_logits"],
            "cam": outputs["cam"],
            "seg": outputs["seg"]["refined"],
            "sal": outputs["sal"]["refined"],
            "affinity": outputs["affinity"].whole[:, rows],
        }

    found = jax.device_get(compilation.jit(run)(params, recorded["image"]))
    return {name: float(abs(value - recorded[name]).max()) for name, value in found.items()}
