"""The step on 1 and on 8 devices, checkpoints, the loop's resume and its stop at a NaN."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import AFFINITY, REPOSITORY
from jax.sharding import AbstractMesh

from auxseg_jax import trees
from auxseg_jax.configs import voc
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.devices import preemption
from auxseg_jax.models import auxsegnet
from auxseg_jax.training import checkpoint, loop, losses, optimizer, step
from auxseg_jax.training.writer import Writer

DATA = pathlib.Path(__file__).parent / "data"

WEIGHTS = {"classification": 1.0, "saliency": 1.0, "segmentation": 1.0}
OPTIONS = {
    "lr": 0.05,
    "power": 0.9,
    "warmup": 0,
    "clip_norm": 0.0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "heads": ("seg_.*",),
    "head_multiplier": 2.0,
    "frozen": ("backbone/conv_0/.*",),
    "ema": 0.6,
}
STEPS = 4


def batch_of(index, size=8, side=20):  # 5 x 5 = 25 cells, which no mesh divides
    rng = np.random.default_rng(index)
    segmentation = rng.choice([0, 1, 2, 3, 255], (size, side, side)).astype(np.int32)
    segmentation[: size // 2, 8:] = 255  # devices hold different numbers of labelled pixels
    return {
        "image": rng.integers(0, 256, (size, side, side, 3), np.uint8),
        "window": np.tile(np.array([0, 1, side - 2, side], np.int32), (size, 1)),
        "labels": rng.integers(0, 2, (size, 3)).astype(np.float32),
        "saliency": rng.uniform(-0.2, 1, (size, side, side)).astype(np.float32),
        "segmentation": segmentation,
    }


def batches(start):
    return (batch_of(i) for i in range(start, 100))


def network_of(precision, dropout, mask_padding):
    model = {
        "backbone": {"name": "tiny", "output_stride": 4, "width": 16},
        "channels": 8,
        "dilations": (1, 2, 3),
        "head_conv": True,
        "dropout": dropout,
        "precision": precision,
        "mask_padding": mask_padding,
    }
    return auxsegnet.build(
        num_classes=3, model=model, affinity=AFFINITY, tasks={"cls": True, "sal": True}
    )


def setup(
    mesh=(1, 1, 1),
    precision="highest",
    accumulate=1,
    dropout=0.3,
    mask_padding=True,
    weights=WEIGHTS,
    **options,
):
    mesh = mesh_lib.make_mesh(**dict(zip(mesh_lib.AXES, mesh, strict=True)))
    network = network_of(precision, dropout, mask_padding)
    params = step.make_init(network, (16, 16), mesh)(jax.random.key(0))
    settings = OPTIONS | options
    transform = optimizer.make_optimizer(params, STEPS, optimizer.Options(**settings))
    objective = step.Objective(losses.stage_losses, weights, True, settings["frozen"], accumulate)
    function = step.make_train_step(network, transform, objective, mesh)
    return mesh, function, step.create_state(params, transform, 7, mesh), params


@functools.cache
def trained(*mesh, **options):
    mesh, function, state, _ = setup(mesh or (1, 1, 1), **options)
    history = []
    for index in range(5):
        state, metrics = function(state, mesh_lib.put_batch(batch_of(index), mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def assert_same_training(one, other):
    for a, b in zip(one[1], other[1], strict=True):
        for key in a:
            np.testing.assert_allclose(
                a[key], b[key], rtol=1e-4, atol=1e-5
            )  # the order of float32 sums differs
    for of in (lambda state: state.params, lambda state: state.opt_state):
        for a, b in zip(jax.tree.leaves(of(one[0])), jax.tree.leaves(of(other[0])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
@pytest.mark.slow
def test_every_mesh_trains_the_same(mesh, monkeypatch):
    one = trained()
    monkeypatch.setattr(mesh_lib, "_LEAST_SPLIT_SIZE", 1)
    assert_same_training(one, trained(*mesh))


@pytest.mark.slow
def test_state_is_split_and_the_affinity_too(monkeypatch):
    """On data 1, fsdp 2, model 4.

    Each device holds half of the kernels, of their momentum and of their average, and a quarter of
    the 36 rows of an affinity.
    """
    monkeypatch.setattr(mesh_lib, "_LEAST_SPLIT_SIZE", 1)
    mesh, function, state, _ = setup((1, 2, 4))
    kernels = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if "seg_branch/conv_1/kernel" in jax.tree_util.keystr(path, simple=True, separator="/")
    }
    assert len(kernels) == 3  # the parameter, its momentum and its average
    batch = mesh_lib.put_batch(batch_of(0, side=24), mesh)
    after, _ = function(state, batch)
    for leaf in (*kernels.values(), after.params["seg_branch"]["conv_1"]["kernel"]):
        assert leaf.sharding.shard_shape(leaf.shape)[-1] == leaf.shape[-1] // 2
    hlo = function.lower(after, batch).compile().as_text()
    assert "f32[4,9,36]" in hlo and "all-gather" in hlo
    assert not re.search(r"f32\[[48],36,36[],]", hlo)


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_it():
    whole = trained(dropout=0.0)
    assert_same_training(whole, trained(1, 1, 1, dropout=0.0, accumulate=4))
    assert_same_training(whole, trained(2, 2, 1, dropout=0.0, accumulate=2))


@pytest.mark.slow
def test_bfloat16_is_close_and_keeps_float32_where_it_matters():
    (state, history), (_, exact) = trained(precision="bfloat16"), trained()
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    for a, b in zip(history, exact, strict=True):
        assert a["loss"].dtype == np.float32 and a["loss"] != b["loss"]
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=0.03)


@pytest.mark.parametrize("name", ["fsdp4", "data2_fsdp4_model2"])
def test_sharding_goldens(name):
    """tests/data/sharding_<mesh>.txt has the specs of the network of `voc`; all else is whole."""
    shape = {"fsdp4": (1, 4, 1), "data2_fsdp4_model2": (2, 4, 2)}[name]
    mesh = AbstractMesh(shape, mesh_lib.AXES)
    config = voc.get_config()
    network = auxsegnet.build(
        num_classes=20, model=config.model, affinity=config.affinity, tasks=config.tasks
    )
    image = jax.ShapeDtypeStruct((1, 65, 65, 3), np.float32)
    params = jax.eval_shape(lambda x: network.init(jax.random.key(0), x)["params"], image)
    transform = optimizer.make_optimizer(params, 10, optimizer.Options(lr=1.0, **config.optimizer))
    state = {"params": params, "opt_state": jax.eval_shape(transform.init, params)}
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): str(tuple(place.spec))
        for path, place in jax.tree_util.tree_leaves_with_path(mesh_lib.tree_sharding(state, mesh))
    }
    split = {name: spec for name, spec in found.items() if spec != "()"}
    expected = dict(
        line.split(" ", 1) for line in (DATA / f"sharding_{name}.txt").read_text().splitlines()
    )
    assert split == expected
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    assert sum(sizes[name] for name in split) > 0.99 * sum(sizes.values())


@pytest.mark.slow
def test_every_loss_is_there_and_falls():
    history = trained()[1]
    assert {k for k in history[0] if k.startswith("loss_")} == {
        "loss_cls", "loss_sal_initial", "loss_sal_refined", "loss_seg_initial", "loss_seg_refined"
    }  # fmt: skip
    np.testing.assert_allclose(
        history[0]["loss"],
        sum(v for k, v in history[0].items() if k.startswith("loss_")),
        rtol=1e-5,
    )
    mesh, function, state, _ = setup(lr=0.02)
    first = None
    for _ in range(12):
        state, metrics = function(state, mesh_lib.put_batch(batch_of(0), mesh))
        first = first if first is not None else float(metrics["loss"])
    assert float(metrics["loss"]) < first


@pytest.mark.parametrize("mask_padding", [False, True])
def test_padding_of_a_crop(mask_padding):
    """It is no part of the photo, as at test, or it is grey photo."""
    options = {"dropout": 0.0, "mask_padding": mask_padding}
    mesh, function, state, params = setup(**options)
    network = network_of("highest", **options)
    batch = batch_of(0)
    top, left, bottom, right = batch["window"][0]
    inside = np.zeros(batch["image"].shape[:3], bool)
    inside[:, top:bottom, left:right] = True
    image = auxsegnet.normalize(network, batch["image"], inside)
    seen = inside if mask_padding else None
    outputs = network.apply({"params": params}, image, inside=seen)
    wanted = losses.stage_losses(outputs, batch, losses.counts(batch))
    found = function(state, mesh_lib.put_batch(batch, mesh))[1]
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_frozen_parameters_stay_and_the_others_move():
    *_, params = setup()
    for name, value in trees.flatten(jax.device_get(trained()[0].params)).items():
        same = np.array_equal(value, trees.flatten(params)[name])
        assert same == name.startswith("backbone/conv_0/"), name


def fit(tmp_path, steps=STEPS, stop_at=None, **options):
    mesh, function, state, _ = setup(**options)

    def stream(start):
        for index, batch in zip(range(start, 100), batches(start), strict=False):
            if index == stop_at:
                raise KeyboardInterrupt
            yield batch

    schedule = loop.Schedule("phase", steps, tmp_path / "checkpoints", 1, 2, 1)
    with writer_in(tmp_path) as writer:
        return loop.fit(schedule, state, function, stream, writer, mesh)


def writer_in(folder):
    return Writer(folder / "metrics.jsonl", folder / "tensorboard")


@pytest.mark.slow
def test_two_steps_a_stop_and_two_steps_are_four_steps_bit_for_bit(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "halves", stop_at=2)
    halves = fit(tmp_path / "halves")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(halves))
    assert int(fit(tmp_path / "halves").step) == STEPS  # and a third call has nothing to do
    lines = [
        json.loads(line)
        for line in (tmp_path / "halves" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"phase", "loss", "loss_seg_refined", "grad_norm", "photos_per_second"} <= set(lines[0])
    assert list((tmp_path / "whole" / "tensorboard").iterdir())


def cut_arrays(folder):
    for path in [path for path in folder.rglob("d/*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[:-100])


def lose_content(folder):
    shutil.rmtree(folder / "default")


def empty_metrics(folder):
    (folder / "metrics/metrics").write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_arrays, lose_content, empty_metrics])
@pytest.mark.slow
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(tmp_path, capsys, damage):
    whole = fit(tmp_path)
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"2", "4"}
    damage(folder / "4")
    again = fit(tmp_path)
    said = capsys.readouterr().err
    assert (
        f"the checkpoint {folder / '4'} cannot be read: " in said
        and "phase goes on from step 2 of 4" in said
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(again))
    assert {path.name for path in folder.iterdir()} == {"2", "4", "4.broken"}


SAVE = """
import os, resource, signal, sys
import jax, jax.numpy as jnp
from auxseg_jax.training.checkpoint import Checkpoints
from auxseg_jax.training.step import TrainState

def state(step):
    values = {"kernel": jax.random.normal(jax.random.key(step), (4000, 4000))}
    return TrainState(jnp.asarray(step), jnp.uint32(0), values, values)

folder, end = sys.argv[1:]
if end == "restored":
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore(state(0))
    print(int(found.step), bool((found.params["kernel"] == state(1).params["kernel"]).all()))
    sys.exit()
with Checkpoints(folder) as checkpoints:
    checkpoints.save(state(1), 1.0)
with Checkpoints(folder) as checkpoints:
    if end == "full":  # what writes more gets an error, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    checkpoints.save(state(2), 0.5)
    if end == "killed":
        while len(os.listdir(folder)) < 2:  # The write begins in a thread.
            pass
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("end", "code"), [("killed", -signal.SIGKILL), ("full", 1)])
def test_a_save_that_is_not_finished_leaves_the_one_before(tmp_path, end, code):
    def run(what):
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, "-c", SAVE, str(tmp_path), what],
            env=environment,
            capture_output=True,
            text=True,
        )

    ended = run(end)
    assert ended.returncode == code, ended.stderr
    if end == "full":
        assert f"a checkpoint in {tmp_path} cannot be written: " in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} != {"1"}  # the write had begun
    again = run("restored")
    assert again.stdout.split() == ["1", "True"], again.stderr


@pytest.mark.slow
def test_checkpoints_that_are_all_broken_are_left_alone(tmp_path):
    fit(tmp_path)
    folder = tmp_path / "checkpoints"
    for name in ("2", "4"):
        cut_arrays(folder / name)
    with pytest.raises(
        ValueError, match=f"no checkpoint in {folder} can be read; remove that folder"
    ):
        fit(tmp_path)


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    *_, state, _ = setup()
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for number, loss in enumerate((1.0, 0.1, 0.5, 0.7, 0.6), 1):
            assert checkpoints.save(state.replace(step=jnp.asarray(number)), loss) >= 0
    assert {path.name for path in tmp_path.iterdir()} == {"2", "4", "5"}


def test_a_state_is_restored_onto_another_mesh(tmp_path, monkeypatch):
    *_, state, _ = setup()
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, 1.0)
    monkeypatch.setattr(mesh_lib, "_LEAST_SPLIT_SIZE", 1)
    *_, other, _ = setup((2, 4, 1))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, other))
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, other)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(state))


@pytest.mark.slow
def test_sigterm_saves_the_step_it_came_at(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    steps = iter((False, False, True))
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "asked", lambda: next(steps))
        with pytest.raises(preemption.Preempted, match="phase stopped by SIGTERM at step 3 of 4"):
            fit(tmp_path / "halves")
    assert "3" in {path.name for path in (tmp_path / "halves/checkpoints").iterdir()}
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(whole),
        jax.device_get(fit(tmp_path / "halves")),
    )


@pytest.mark.slow
def test_at_most_two_steps_are_under_way(tmp_path):
    events = []

    class Loss:
        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            events.append(("done", self.step))
            return self

        def __array__(self, *_, **__):
            return np.float32(1)

    def train_step(state, batch):
        events.append(("begun", int(state.step) + 1))
        return state.replace(step=state.step + 1), {
            "loss": Loss(int(state.step) + 1),
            "grad_norms": np.ones(len(trees.flatten(state.params))),
        }

    mesh, _, state, _ = setup()
    schedule = loop.Schedule("phase", 6, tmp_path / "checkpoints", 6, 6, 1)
    with writer_in(tmp_path) as writer:
        loop.fit(schedule, state, train_step, batches, writer, mesh)
    begun = [index for index, (what, _) in enumerate(events) if what == "begun"]
    assert len(begun) == 6
    for index in begun[2:]:
        assert ("done", events[index][1] - 2) in events[:index]


def test_sigterm_where_nothing_is_to_save_ends_at_once():
    script = """
import os, signal, time
from auxseg_jax.devices import preemption
preemption.install()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (
        ended.returncode == preemption.EXIT_CODE == 143
        and "stopped by SIGTERM; the same command goes on" in ended.stderr
    )


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_run(tmp_path):
    with pytest.raises(
        loop.NonFiniteError,
        match=r"not finite at step \d: .*loss = .*gradients of backbone/conv_1/kernel",
    ):
        fit(tmp_path, steps=50, lr=1e12)


def test_parameters_are_restored_onto_another_mesh(tmp_path):
    *_, params = setup()
    checkpoint.save_params(tmp_path / "params", params)
    mesh = mesh_lib.make_mesh(data=8)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    found = checkpoint.load_params(tmp_path / "params", shapes, mesh)
    assert len(jax.tree.leaves(found)[0].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(params))


def test_clip_norm():
    params = {"w": jnp.zeros(4)}
    options = OPTIONS | {
        "clip_norm": 1.0,
        "heads": (),
        "frozen": (),
        "weight_decay": 0.0,
        "momentum": 0.0,
        "lr": 1.0,
    }
    transform = optimizer.make_optimizer(params, 10, optimizer.Options(**options))
    updates, _ = transform.update({"w": jnp.full(4, 10.0)}, transform.init(params), params)
    np.testing.assert_allclose(optax.global_norm(updates), 1.0, rtol=1e-6)


def test_mesh_errors():
    with pytest.raises(ValueError, match="ask for 9 devices, 8 are visible"):
        mesh_lib.make_mesh(data=9)
    with pytest.raises(ValueError, match="fsdp=3 x model=1 does not divide the 8 devices"):
        mesh_lib.make_mesh(fsdp=3)
    with pytest.raises(ValueError, match="must be above 0, or data -1"):
        mesh_lib.make_mesh(data=0)
    with pytest.raises(ValueError, match="batch size 12 is not a multiple of 8, the devices"):
        mesh_lib.check_batch_size(12, mesh_lib.make_mesh())
