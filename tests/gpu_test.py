"""Compiles for an H100 that is not here: `make gpu-compile`. Skipped without JAX's CUDA plugin.

Each test compiles in a process of its own, because XLA may abort it.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from auxseg_jax.analysis import targets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        targets.cuda_plugin() is None, reason="JAX's CUDA plugin is not installed: make gpu-compile"
    ),
]
STRIDED = """
import jax
import jax.numpy as jnp
from auxseg_jax.analysis import targets
from auxseg_jax.models.resnet38 import Block

devices, _ = targets.find_devices("h100:1")
place = jax.sharding.SingleDeviceSharding(devices[0])
block = Block(128, 128, stride=2, first_dilation=1, dilation=1)
image = jax.ShapeDtypeStruct((2, 97, 129, 64), jnp.float32, sharding=place)
params = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, None), image)
params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), params)
jax.jit(lambda p, x: block.apply(p, x, None)).lower(params, image).compile()
"""


def run(*command):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    environment["JAX_PLATFORMS"] = "cpu"
    ended = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_strided_product_does_not_abort():
    run("-c", STRIDED)


@pytest.mark.parametrize("precision", ["tensorfloat32", "bfloat16"])
@pytest.mark.parametrize(("program", "topology"), [("train", "h100:8"), ("update", "h100:1")])
def test_the_papers_network(program, topology, precision, tmp_path):
    run(
        "launch.py",
        "compile",
        "--config=voc:official,resnet38",
        f"--topology={topology}",
        f"--programs={program}",
        "--effort=full",
        f"--config.model.precision={precision}",
        "--config.stages.batch_size=32",
        "--config.classifier.batch_size=32",
        f"--output={tmp_path / 'found.json'}",
    )
    found = json.loads((tmp_path / "found.json").read_text())["programs"][program]
    assert found["fits"] is True and 0 < found["step_seconds"] < 1
    kind = {"tensorfloat32": "f32 high", "bfloat16": "bf16 default"}[precision]
    assert set(found["product_flops"]) == {"f32 highest", kind}
