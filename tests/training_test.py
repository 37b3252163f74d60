"""The step on 1 and on 8 devices, checkpoints, the loop's resume and its stop on numbers that are not finite."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from auxseg_jax import sharding, trees
from auxseg_jax.models import auxsegnet
from auxseg_jax.training import checkpoint, loop, losses, optimizer, step
from auxseg_jax.training.writer import Writer

WEIGHTS = {"classification": 1.0, "saliency": 1.0, "segmentation": 1.0}
AFFINITY = {"pairwise": True, "unary": True, "cross_task": True, "refine": "both", "whiten": False, "scale": False, "normalize_rows": False}
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
}
STEPS = 4


def batch_of(index, size=8):
    rng = np.random.default_rng(index)
    segmentation = rng.choice([0, 1, 2, 3, 255], (size, 16, 16)).astype(np.int32)
    segmentation[: size // 2, 8:] = 255  # devices hold different numbers of labelled pixels
    return {
        "image": rng.normal(size=(size, 16, 16, 3)).astype(np.float32),
        "labels": rng.integers(0, 2, (size, 3)).astype(np.float32),
        "saliency": rng.uniform(-0.2, 1, (size, 16, 16)).astype(np.float32),
        "segmentation": segmentation,
    }


def batches(start):
    return (batch_of(i) for i in range(start, 100))


def setup(devices, **options):
    mesh = sharding.make_mesh(data=devices)
    model = {"backbone": {"name": "tiny", "output_stride": 4, "width": 16}, "channels": 8, "dilations": (1, 2, 3), "head_conv": True, "dropout": 0.3}
    network = auxsegnet.build(num_classes=3, model=model, affinity=AFFINITY, tasks={"cls": True, "sal": True})
    params = step.init_params(network, (16, 16), 0, mesh)
    settings = OPTIONS | options
    transform = optimizer.make_optimizer(params, STEPS, **settings)
    function = step.make_train_step(network, transform, losses.stage_losses, WEIGHTS, mesh, dense=True, frozen=settings["frozen"])
    return mesh, function, step.create_state(params, transform, 7, mesh), params


@functools.cache
def trained(devices):
    mesh, function, state, _ = setup(devices)
    history = []
    for index in range(STEPS):
        state, metrics = function(state, sharding.put_batch(batch_of(index), mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def test_one_and_eight_devices_agree():
    one, eight = trained(1), trained(8)
    for a, b in zip(one[1], eight[1], strict=True):
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-5)  # the order of float32 sums differs
    for (name, a), b in zip(trees.flatten(one[0].params).items(), trees.flatten(eight[0].params).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_loss_is_there_and_falls():
    history = trained(1)[1]
    assert {k for k in history[0] if k.startswith("loss_")} == {
        "loss_cls", "loss_sal_initial", "loss_sal_refined", "loss_seg_initial", "loss_seg_refined"
    }  # fmt: skip
    np.testing.assert_allclose(history[0]["loss"], sum(v for k, v in history[0].items() if k.startswith("loss_")), rtol=1e-5)
    mesh, function, state, _ = setup(1, lr=0.02)
    first = None
    for _ in range(12):
        state, metrics = function(state, sharding.put_batch(batch_of(0), mesh))
        first = first if first is not None else float(metrics["loss"])
    assert float(metrics["loss"]) < first


def test_frozen_parameters_stay_and_the_others_move():
    *_, params = setup(1)
    for name, value in trees.flatten(jax.device_get(trained(1)[0].params)).items():
        same = np.array_equal(value, trees.flatten(params)[name])
        # theta . phi is invariant to phi's bias (softmax), up to rounding: it may or may not move
        assert same == name.startswith("backbone/conv_0/") or name.endswith("phi/bias"), name


def fit(tmp_path, steps=STEPS, stop_at=None, **options):
    mesh, function, state, _ = setup(1, **options)

    def stream(start):
        for index, batch in zip(range(start, 100), batches(start), strict=False):
            if index == stop_at:
                raise KeyboardInterrupt
            yield batch

    with Writer(tmp_path) as writer:
        return loop.fit("phase", state, function, stream, steps, tmp_path / "checkpoints", writer, mesh, log_every=1, checkpoint_every=2)


def test_two_steps_a_stop_and_two_steps_are_four_steps_bit_for_bit(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "halves", stop_at=2)
    halves = fit(tmp_path / "halves")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(halves))
    assert int(fit(tmp_path / "halves").step) == STEPS  # and a third call has nothing to do
    lines = [json.loads(line) for line in (tmp_path / "halves" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"phase", "loss", "loss_seg_refined", "grad_norm", "photos_per_second"} <= set(lines[0])
    assert list((tmp_path / "whole" / "tensorboard").iterdir())


def test_numbers_that_are_not_finite_stop_the_run(tmp_path):
    with pytest.raises(loop.NonFiniteError, match=r"not finite at step \d: .*loss = .*gradients of backbone/conv_1/kernel"):
        fit(tmp_path, steps=50, lr=1e12)


def test_parameters_are_restored_onto_another_mesh(tmp_path):
    *_, params = setup(1)
    checkpoint.save_params(tmp_path / "params", params)
    mesh = sharding.make_mesh(data=8)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    found = checkpoint.load_params(tmp_path / "params", shapes, mesh)
    assert len(jax.tree.leaves(found)[0].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(params))


def test_clip_norm():
    params = {"w": jnp.zeros(4)}
    options = OPTIONS | {"clip_norm": 1.0, "heads": (), "frozen": (), "weight_decay": 0.0, "momentum": 0.0, "lr": 1.0}
    transform = optimizer.make_optimizer(params, 10, **options)
    updates, _ = transform.update({"w": jnp.full(4, 10.0)}, transform.init(params), params)
    np.testing.assert_allclose(optax.global_norm(updates), 1.0, rtol=1e-6)


def test_mesh_errors():
    with pytest.raises(ValueError, match="asks for 9 devices, 8 are visible"):
        sharding.make_mesh(data=9)
    with pytest.raises(ValueError, match="batch size 12 is not a multiple of the 8 devices"):
        sharding.check_batch_size(12, sharding.make_mesh())
