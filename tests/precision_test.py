"""The policy of `models.precision`: which products are exact, read from the programs themselves."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import pytest
from compiled_test import GPU_HLO
from conftest import REPOSITORY

from auxseg_jax.analysis import products, targets
from auxseg_jax.analysis.programs import PROGRAMS, Programs, make_mesh
from auxseg_jax.configs import common, tiny
from auxseg_jax.models.backbone import Attention
from auxseg_jax.models.pairwise import Pairwise
from auxseg_jax.models.precision import PRECISIONS

# Modules of convolutions, as parts of an operation's name.
CONVOLUTIONS = r"/(backbone|cls_head|(seg|sal)_(branch|head))/"
EXPECTED = {
    "highest": ("f32", "highest"),
    "tensorfloat32": ("f32", "high"),
    "bfloat16": ("bf16", "default"),
}

ORDER = ("default", "high", "highest")


def programs(precision, devices):
    """Programs with everything in which a product could hide."""
    config = tiny.get_config()
    config.model.precision = precision
    config.affinity.heads = 2
    config.affinity.cosine = 0.0  # It has a product more.
    config.crf.filter = "exact"
    config.crf.saliency.iterations = config.crf.segmentation.iterations = 1
    return Programs(config, make_mesh(config, devices))


def is_convolution(operation):
    return bool(re.search(CONVOLUTIONS, operation))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_but_the_convolutions_is_float32(precision, name):
    """The program that every compiler is given."""
    found = products.products(getattr(programs(precision, jax.devices()[:1]), name)())
    for product in found:
        convolves = is_convolution(product.operation)
        wanted = EXPECTED[precision] if convolves else ("f32", "highest")
        assert (product.dtype, product.precision) == wanted, product
    exact = sum(not is_convolution(product.operation) for product in found)
    assert exact >= (2 if "cam" in name else 20) and len(found) >= exact + 8


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet38"])
@pytest.mark.parametrize("precision", ["highest", "tensorfloat32"])
def test_real_backbones_as_a_gpu_gets_them(precision, backbone):
    """With depthwise convolutions, strided shortcuts, and affinities in blocks of rows."""
    config = common.get_config()
    common.set_backbone(config, backbone)
    common.set_data(config, "shapes")
    config.model.precision, config.affinity.block_mib = precision, 0.5
    config.augment.crop, config.stages.batch_size = 161, 1
    lowered = Programs(config, make_mesh(config, jax.devices()[:1]), "cuda").train()
    found = products.products(lowered)
    for product in found:
        convolves = is_convolution(product.operation)
        wanted = EXPECTED[precision] if convolves else ("f32", "highest")
        assert (product.dtype, product.precision) == wanted, product
    text = lowered.as_text()
    assert ("feature_group_count = 32" in text) == (backbone == "efficientnet_lite0")
    assert sum(product.flops for product in found) > 1e9 and "stablehlo.while" in text


def test_an_affinity_that_is_read_later_is_exact():
    """Its rows are made anew where it is kept in blocks."""

    def row(query, key):
        attention = Attention(query, key)
        return Pairwise.from_attention(attention, None, 2).row(3)

    shape = jax.ShapeDtypeStruct((1, 6, 4), "float32")
    found = products.products(jax.jit(row).lower(shape, shape))
    assert {product.precision for product in found} == {"highest"}


def product_precisions(hlo: str) -> list[tuple[str, str]]:
    """Returns (name of the operation in the source, precision) of all products of a program.

    They are dots and convolutions, or calls of cuBLAS and cuDNN on a GPU. The precision is
    "default", "high" or "highest", the less precise of both operands. (A call also lists a bias or
    a sum that is fused into it, which are no operands of the product.)
    """
    precisions = []
    for line in hlo.splitlines():
        if not re.search(r" (dot|convolution)\(|__cublas\$|__cudnn\$", line):
            continue
        match = re.search(r"operand_precision={([\w,]+)}|\"operand_precision\":\[([^\]]*)", line)
        names = re.findall(r"\w+", (match[1] or match[2]).lower()) if match else ["default"]
        name = re.search(r'op_name="([^"]*)"', line)
        least = min(names[:2], key=ORDER.index)
        precisions.append((name[1] if name else "", least))
    return precisions


def test_precisions_of_compiled_products():
    """A fused bias, the third operand, has no say."""
    assert product_precisions(GPU_HLO) == [
        ("a/dot", "high"),
        ("b/conv", "highest"),
        ("c/dot", "default"),
    ]


TARGETS = {
    "h100:1": (targets.cuda_plugin, "JAX's CUDA plugin is not installed"),
    "v5e:1x1": (lambda: importlib.util.find_spec("libtpu"), "libtpu is not installed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "tensorfloat32"])
@pytest.mark.parametrize("topology", TARGETS)
def test_compilers_keep_the_precision(topology, precision):
    """What a GPU or a TPU would run. In a process of its own, which loads the compiler."""
    is_there, reason = TARGETS[topology]
    if not is_there():
        pytest.skip(reason)
    ended = subprocess.run(
        [sys.executable, __file__, topology, precision],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    for operation, found_precision in found:
        wanted = EXPECTED[precision][1] if is_convolution(operation) else "highest"
        assert found_precision == wanted, operation
    convolutions = [operation for operation, _ in found if is_convolution(operation)]
    assert len(convolutions) >= 20 and len(found) >= len(convolutions) + 20


def main(topology, precision):
    devices, _ = targets.find_devices(topology)
    step = programs(precision, devices[:1]).train().compile()
    print(json.dumps(product_precisions(step.as_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
