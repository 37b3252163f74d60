"""Losses, schedule and optimiser groups against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from auxseg_jax import trees
from auxseg_jax.training import losses, optimizer


def bce(logit, target):
    p = 1 / (1 + np.exp(-np.float64(logit)))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def upsample(logits, size):
    """Bilinear, half-pixel centres, edges clamped: the definition, in loops."""
    out = np.zeros((logits.shape[0], *size, logits.shape[3]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = np.clip((i + 0.5) * logits.shape[1] / size[0] - 0.5, 0, logits.shape[1] - 1)
            x = np.clip((j + 0.5) * logits.shape[2] / size[1] - 0.5, 0, logits.shape[2] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, logits.shape[1] - 1), min(x0 + 1, logits.shape[2] - 1)
            top = logits[:, y0, x0] * (1 - (x - x0)) + logits[:, y0, x1] * (x - x0)
            bottom = logits[:, y1, x0] * (1 - (x - x0)) + logits[:, y1, x1] * (x - x0)
            out[:, i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def test_multilabel_soft_margin(rng):
    logits, labels = (
        rng.normal(size=(3, 4)).astype(np.float32),
        rng.integers(0, 2, (3, 4)).astype(np.float32),
    )
    np.testing.assert_allclose(
        losses.multilabel_soft_margin(logits, labels, np.asarray(labels.size)),
        bce(logits, labels).mean(),
        rtol=1e-6,
    )


def test_saliency_loss_leaves_padding_out(rng):
    logits, saliency = (
        rng.normal(size=(2, 3, 4, 1)).astype(np.float32),
        rng.random((2, 11, 13)).astype(np.float32),
    )
    saliency[0, 5:] = -1
    saliency[1, 0, 0] = 0.5  # not above the threshold
    large = upsample(logits.astype(np.float64), (11, 13))[..., 0]
    expected = bce(large, saliency > 0.5)[saliency >= 0].mean()
    np.testing.assert_allclose(
        losses.saliency_loss(logits, saliency, np.asarray((saliency >= 0).sum())),
        expected,
        rtol=1e-5,
    )


def test_segmentation_loss_averages_over_the_labelled_pixels_of_the_batch(rng):
    logits, labels = (
        rng.normal(size=(2, 3, 4, 5)).astype(np.float32),
        rng.integers(0, 5, (2, 11, 13)).astype(np.int32),
    )
    labels[0, :9] = 255
    large = upsample(logits.astype(np.float64), (11, 13))
    log_p = large - np.log(np.exp(large).sum(-1, keepdims=True))
    picked = [
        -log_p[(*index, labels[index])]
        for index in np.ndindex(labels.shape)
        if labels[index] != 255
    ]
    np.testing.assert_allclose(
        losses.segmentation_loss(logits, labels, np.asarray((labels != 255).sum())),
        np.mean(picked),
        rtol=1e-5,
    )


def test_all_ignored_is_zero_with_zero_gradient(rng):
    logits, labels = rng.normal(size=(1, 3, 4, 5)).astype(np.float32), np.full((1, 6, 8), 255)
    loss, gradient = jax.value_and_grad(losses.segmentation_loss)(
        logits, labels, np.asarray((labels != 255).sum())
    )
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_total_weighs_by_task():
    parts = {
        "loss_cls": 1.0,
        "loss_sal_initial": 10.0,
        "loss_sal_refined": 20.0,
        "loss_seg_initial": 300.0,
    }
    assert losses.total(parts, classification=2.0, saliency=0.5, segmentation=1.0) == 2 + 15 + 300


def test_poly_schedule():
    schedule = optimizer.poly_schedule(0.1, 0.9, 10)
    for step in range(10):
        np.testing.assert_allclose(schedule(step), 0.1 * (1 - step / 10) ** 0.9, rtol=1e-6)
    warm = optimizer.poly_schedule(0.1, 0.9, 10, warmup=4)
    np.testing.assert_allclose(warm(0), 0.1 / 4, rtol=1e-6)
    np.testing.assert_allclose(warm(5), schedule(5), rtol=1e-6)


def test_groups_momentum_and_weight_decay(rng):
    names = ("backbone/conv/kernel", "backbone/bn/scale", "seg_head/predict/kernel")
    flat = {name: rng.normal(size=3).astype(np.float32) for name in names}
    options = {
        "lr": 0.1,
        "power": 0.9,
        "warmup": 0,
        "clip_norm": 0.0,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "head_multiplier": 10.0,
    }
    params = trees.unflatten({k: jnp.asarray(v) for k, v in flat.items()})
    options |= {"heads": ["seg_.*"], "frozen": [".*/bn/.*"]}
    transform = optimizer.make_optimizer(params, 5, optimizer.Options(**options))
    state = transform.init(params)
    expected, buffer = {k: v.astype(np.float64) for k, v in flat.items()}, dict.fromkeys(names, 0.0)
    for step in range(4):
        gradients = {name: rng.normal(size=3).astype(np.float32) for name in names}
        updates, state = transform.update(trees.unflatten(gradients), state, params)
        params = optax.apply_updates(params, updates)
        for name, multiplier in zip(names, (1, 0, 10), strict=True):
            buffer[name] = 0.9 * buffer[name] + gradients[name] + 0.01 * expected[name]
            expected[name] = (
                expected[name] - 0.1 * multiplier * (1 - step / 5) ** 0.9 * buffer[name]
            )
    for name, value in trees.flatten(params).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)


RECIPE = {
    "lr": 0.1,
    "power": 0.9,
    "warmup": 0,
    "clip_norm": 0.0,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "heads": ["seg_.*"],
    "head_multiplier": 10.0,
    "frozen": [".*/bn/.*"],
}


def test_adamw_with_layer_decay(rng):
    """Rates lr * multiplier: the head's 10, layers 0 and 1 of two 0.25 and 0.5, the rest 1."""
    multipliers = {
        "backbone/conv_0/kernel": 0.25,
        "backbone/conv_1/kernel": 0.5,
        "backbone/conv_1/bn/scale": 0.0,
        "cross_x/kernel": 1.0,
        "seg_head/predict/kernel": 10.0,
    }
    layers = (r"backbone/conv_0/.*", r"backbone/conv_1/.*")
    options = optimizer.Options(
        **RECIPE, name="adamw", second_momentum=0.99, layer_decay=0.5, layers=layers
    )
    flat = {name: rng.normal(size=3).astype(np.float32) for name in multipliers}
    params = trees.unflatten({k: jnp.asarray(v) for k, v in flat.items()})
    transform = optimizer.make_optimizer(params, 5, options)
    state = transform.init(params)
    expected = {k: v.astype(np.float64) for k, v in flat.items()}
    first, second = dict.fromkeys(flat, 0.0), dict.fromkeys(flat, 0.0)
    for step in range(4):
        gradients = {name: rng.normal(size=3).astype(np.float32) for name in flat}
        updates, state = transform.update(trees.unflatten(gradients), state, params)
        params = optax.apply_updates(params, updates)
        for name, multiplier in multipliers.items():
            first[name] = 0.9 * first[name] + 0.1 * gradients[name]
            second[name] = 0.99 * second[name] + 0.01 * gradients[name] ** 2
            mean, spread = (
                first[name] / (1 - 0.9 ** (step + 1)),
                second[name] / (1 - 0.99 ** (step + 1)),
            )
            rate = 0.1 * multiplier * (1 - step / 5) ** 0.9
            adam = mean / (np.sqrt(spread) + 1e-8)
            expected[name] = expected[name] - rate * (adam + 0.01 * expected[name])
    for name, value in trees.flatten(params).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_moving_average(rng):
    """The plain mean of the first 1 / (1 - 0.75) = 4 steps, then their moving average."""
    params = {"seg_head": {"kernel": jnp.ones(3)}, "bn": {"bn": {"scale": jnp.full(1, 0.1)}}}
    transform = optimizer.make_optimizer(params, 9, optimizer.Options(**RECIPE, ema=0.75))
    state, history = transform.init(params), []
    for _ in range(6):
        gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        history.append(np.asarray(params["seg_head"]["kernel"], np.float64))
    wanted = np.mean(history[:4], axis=0)
    for value in history[4:]:
        wanted = 0.75 * wanted + 0.25 * value
    final = optimizer.final_params(params, state)
    np.testing.assert_allclose(final["seg_head"]["kernel"], wanted, rtol=1e-5)
    assert final["bn"]["bn"]["scale"] == params["bn"]["bn"]["scale"]  # frozen, to the bit
    plain = optimizer.make_optimizer(params, 9, optimizer.Options(**RECIPE))
    assert optimizer.final_params(params, plain.init(params)) is params


def test_optimisers_that_there_are_not():
    params = {"seg_head": {"kernel": np.zeros(1)}, "bn": {"bn": {"scale": np.zeros(1)}}}
    with pytest.raises(ValueError, match=r"optimizer\.name='adam' is not one of sgd, adamw"):
        optimizer.make_optimizer(params, 5, optimizer.Options(**RECIPE, name="adam"))


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"'sge_\.\*' matches no parameter"):
        trees.mask({"seg_head": {"kernel": np.zeros(1)}}, ["sge_.*"])
