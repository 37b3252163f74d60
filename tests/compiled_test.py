"""Compiling for devices that are not here: 8 of the CPU; and a TPU where libtpu is installed."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import pytest
import rich.console
from conftest import REPOSITORY

from auxseg_jax.analysis import compiled, compiled_table, gpus, hlo, products, targets
from auxseg_jax.configs import tiny


def config_of(**mesh):
    config = tiny.get_config()
    config.mesh.update({"data": -1} | mesh)
    return config


HLO = """
%all-reduce-scatter.1 (x: f32[100]) -> f32[12] {
  %g = f32[100]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
}

ENTRY %main () -> f32[] {
  %a = f32[100]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %b = (f32[10]{0}, bf16[10]{0}) all-reduce(%x, %y), replica_groups={}, to_apply=%add
  %c = (f32[20]{0}, f32[80]{0}) all-gather-start(%x), replica_groups=mesh['a'=2,'b'=4] {'b'},
  dimensions={0} %d = f32[80]{0} all-gather-done(%c)
  %e = f32[50]{0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
  %f = f32[7]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}
"""


def test_messages_are_counted():
    found = hlo.collectives(HLO, 8)
    assert found == {
        "all-reduce": {"count": 2, "bytes": 460, "sent_bytes": 805},  # 2 * 7/8
        "all-gather": {"count": 1, "bytes": 320, "sent_bytes": 240},
        "reduce-scatter": {"count": 2, "bytes": 250, "sent_bytes": 550},
        "collective-permute": {"count": 1, "bytes": 28, "sent_bytes": 28},
    }


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (
            "E1001: Ran out of memory in memory space hbm. Used 17.5G of 15.75G hbm. Exceeded hbm "
            "capacity by 1.75G.",
            17.5 * 2**30,
        ),
        (
            "E1000: Ran out of memory on HBM, the total memory required for HLO temporaries (800M) "
            "exceeds available HBM (512M).",
            800 * 2**20,
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_what_does_not_fit_says_how_much_it_needs(error, needed):
    assert hlo.missing_memory(error) == needed


def test_results_are_as_large_as_the_device_keeps_them():
    text = """
ENTRY %main () -> f32[] {
  %a = f32[3,100]{1,0:T(8,128)} add(%x, %y), metadata={op_name="sum"}
  %b = (bf16[2,130]{0,1:T(8,128)(2,1)}, f32[7]) fusion(%a)
  %c = f32[999]{0} get-tuple-element(%b)
}
"""
    assert hlo.largest_results(text) == [
        (136 * 128 * 2, "bf16[2,130]{0,1:T(8,128)(2,1)}", ""),
        (8 * 128 * 4, "f32[3,100]{1,0:T(8,128)}", "sum"),
        (28, "f32[7]", ""),
    ]


@pytest.mark.slow
def test_eight_devices_of_the_cpu(monkeypatch, capsys):
    # The settings are this process's, which goes on.
    monkeypatch.setattr(compiled.jax.config, "update", lambda name, value: None)
    found = compiled.analyse(config_of(fsdp=2), "cpu:8", programs=("train", "predict"))
    assert found.chips == 8 and found.mesh == {"data": 4, "fsdp": 2, "model": 1}
    train, predict = found.programs["train"], found.programs["predict"]
    assert any("threefry" in loop for loop in train.loops)
    assert not any("affinity" in loop for loop in train.loops)  # one block holds it
    assert train.flops > 0 and train.memory_bytes >= train.argument_bytes > 0
    assert train.fits is None and train.collectives["all-reduce"]["count"] >= 1
    assert not predict.collectives  # photos are alone
    whole = compiled.analyse(config_of(), "cpu:1", programs=("train",)).programs["train"]
    assert 0.8 < 8 * train.flops / whole.flops < 1.3  # a batch of 8, one photo a device
    compiled_table.show(found, rich.console.Console(width=200))
    assert "cpu:8: 8 devices, data 4 x fsdp 2 x model 1" in capsys.readouterr().out
    content = found.to_json()["programs"]["train"]
    assert content["fits"] is None and content["largest"][0]["bytes"] > 0
    assert "step_seconds" not in content


@pytest.mark.parametrize(
    ("topology", "options", "message"),
    [
        ("v9:4x4", {}, "it is one of v5e, v5p, v6e, a100, h100, .* or cpu"),
        (
            "h100:x",
            {},
            "h100:N takes the number of GPUs of a machine, h100:MxN also that of machines",
        ),
        ("cpu:x", {}, "cpu:N takes the number of devices"),
        ("cpu:8", {"effort": "much"}, "is not one of fast, full"),
        ("cpu:8", {"programs": ()}, "--programs names none"),
        ("cpu:8", {"programs": ("dream",)}, "there is no program 'dream'"),
        ("cpu:6", {}, "classifier.batch_size: the batch size 8 is not a multiple of 6"),
    ],
)
def test_what_cannot_be_compiled_is_said(topology, options, message):
    with pytest.raises(ValueError, match=message):
        compiled.analyse(config_of(), topology, **options)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu(tmp_path):
    """In processes of their own: where libtpu is loaded, JAX's profiler of this one would crash."""
    command = [
        sys.executable,
        "launch.py",
        "compile",
        "--config=tiny",
        "--config.mesh.data=-1",
        "--programs=train",
    ]
    ended = subprocess.run(
        [*command, "--topology=v5e:2x2*2", f"--output={tmp_path / 'found.json'}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "v5e:2x2*2: 8 devices, data 8 x fsdp 1 x model 1" in ended.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    train = found["programs"]["train"]
    assert found["chips"] == 8 and train["fits"] is True and 0 < train["utilization"] <= 1
    ended = subprocess.run(
        [*command, "--topology=v5e:3x77"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "libtpu does not know --topology=" in ended.stderr


GPU_HLO = """
%fused (p: f32[4,4]) -> f32[4,4] {
  %d = f32[4,4]{1,0} dot(%p, %p), operand_precision={high,highest}, metadata={op_name="a/dot"}
}

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  %f = f32[4,4]{1,0} fusion(%x), kind=kOutput, calls=%fused
  %s = (f32[4,4]{1,0}, f32[8]{0}) all-reduce-start(%f), to_apply=%add
  %e = f32[4,4]{1,0} all-reduce-done(%s)
  %c = (f32[4,4]{1,0}, u8[16]{0}) custom-call(%e, %x), custom_call_target="__cudnn$convForward",
    metadata={op_name="b/conv"}, operand_precision={highest,highest,default}
  %g = f32[4,4]{1,0} get-tuple-element(%c), index=0
  ROOT %r = f32[4,4]{1,0} custom-call(%g, %x), custom_call_target="__cublas$lt$matmul",
    metadata={op_name="c/dot"},
    backend_config={"precision_config":{"operand_precision":["HIGHEST","DEFAULT"]}}
}
""".replace(",\n    ", ", ")


def test_moved_bytes():
    # fusion 64 + 64, start (64 + 32) + 64, call (64 + 16) + 64 + 64, product 64 + 64 + 64
    assert hlo.moved_bytes(GPU_HLO) == 128 + 160 + 208 + 192


def test_flops_of_products():
    def function(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.map(lambda row: row @ matrix, y)

    shapes = [(2, 9, 9, 4), (3, 3, 4, 6), (6, 5)]
    arguments = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    conv, dot = products.products(jax.jit(function).lower(*arguments))
    assert conv.flops == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
    assert dot.flops == 2 * (4 * 4 * 5) * 6  # The body of a loop counts once.


@pytest.mark.parametrize("name", gpus.GPUS)
def test_gpus_are_described(name):
    gpu = gpus.GPUS[name]
    text = gpu.to_target()
    assert f'name: "{gpu.name}"' in text and f"core_count: {gpu.multiprocessors}" in text
    assert gpu.float32 <= gpu.tensorfloat32 < gpu.bfloat16 and 1e10 < gpu.memory_bytes < 2e11
    # The data sheets' float32 rate is that of the cores at the boost clock.
    rate = 2 * gpu.multiprocessors * gpu.cuda_cores * gpu.clock_ghz * 1e9
    assert rate == pytest.approx(gpu.float32, rel=0.03)


def test_estimates_go_by_precision():
    program = compiled.Program(
        True,
        2**30,
        1.0,
        flops=3e12,
        moved_bytes=1e9,
        product_flops={"f32 high": 2e12, "f32 highest": 1e12},
    )
    estimate = compiled._with_times(program, targets.PEAKS["h100"])
    assert estimate.seconds["arithmetic"] == pytest.approx(2e12 / 494e12 + 1e12 / 67e12)
    assert estimate.fits and estimate.step_seconds == estimate.seconds["arithmetic"]
    large = dataclasses.replace(program, memory_bytes=70 * 2**30)
    assert not compiled._with_times(large, targets.PEAKS["h100"]).fits
