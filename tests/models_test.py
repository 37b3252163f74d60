"""Backbones, the assembled network and its switches, and the ImageNet weights."""

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import AFFINITY

from auxseg_jax import trees
from auxseg_jax.models import auxsegnet, backbones, efficientnet_lite, fusion
from auxseg_jax.models.backbone import Attention, Backbone, BackboneOutput
from auxseg_jax.models.tiny import Tiny
from auxseg_jax.pseudo import random_walk
from auxseg_jax.weights import pretrained

BACKBONE = efficientnet_lite.BACKBONE

MODEL = {
    "backbone": {"name": "tiny", "output_stride": 8, "width": 16},
    "channels": 8,
    "dilations": (1, 2, 3),
    "head_conv": True,
    "dropout": 0.5,
}


def network(affinity=None, tasks=None, **model):
    return auxsegnet.build(
        num_classes=3,
        model=MODEL | model,
        affinity=AFFINITY | (affinity or {}),
        tasks={"cls": True, "sal": True} | (tasks or {}),
    )


def outputs_of(net, image, params=None, **kwargs):
    params = params if params is not None else net.init(jax.random.key(0), image)["params"]
    return params, net.apply({"params": params}, image, **kwargs)


@pytest.fixture
def image(rng):
    return rng.normal(size=(2, 23, 30, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0", "resnet38", "resnet50"])
def test_every_backbone_computes_in_bfloat16(name):
    """Shapes alone: float32 parameters, affinities and predictions; bfloat16 features."""
    backbone = MODEL["backbone"] if name == "tiny" else {"name": name}
    net = network(backbone=backbone, precision="bfloat16")
    image = jax.ShapeDtypeStruct((1, 33, 33, 3), np.float32)
    params = jax.eval_shape(lambda x: net.init(jax.random.key(0), x)["params"], image)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    outputs, state = jax.eval_shape(
        lambda p, x: net.apply({"params": net.cast(p)}, x, capture_intermediates=True),
        params,
        image,
    )
    features = state["intermediates"]["backbone"]["__call__"][0].features
    assert features.dtype == state["intermediates"]["seg_branch"]["__call__"][0].dtype == "bfloat16"
    predictions = {key: outputs[key] for key in ("cls_logits", "cam", "seg", "sal", "affinity")}
    assert {x.dtype for x in jax.tree.leaves(predictions)} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_shapes_of_everything(image):
    params, out = outputs_of(network(), image)
    grid = (2, 3, 4)
    assert out["cls_logits"].shape == (2, 3) and out["cam"].shape == (*grid, 3)
    assert {k: v.shape for k, v in out["seg"].items()} == {
        "initial": (*grid, 4),
        "refined": (*grid, 4),
    }
    assert {k: v.shape for k, v in out["sal"].items()} == {
        "initial": (*grid, 1),
        "refined": (*grid, 1),
    }
    assert out["affinity"].whole.shape == (2, 12, 12) and out["unary"].shape == (2, 12)
    assert params["seg_gamma"] == 0 and params["sal_gamma"] == 0
    np.testing.assert_allclose(out["cls_logits"], out["cam"].mean((1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_initialisation_is_the_authors(image):
    """Within its bound and close to it: Xavier's sqrt(6 / (fan_in + fan_out)) or 1/sqrt(fan_in)."""
    papers = network({"cosine": 0.0, "whiten": False}, channels=64)
    params = trees.flatten(jax.jit(papers.init)(jax.random.key(0), image)["params"])
    xavier = {
        "cls_head": (16, 3),
        "seg_branch/conv_1": (9 * 16, 9 * 64),
        "sal_head/conv": (9 * 64, 9 * 64),
        "sal_head/predict": (64, 1),
    }
    bounds = {f"{name}/kernel": (6 / sum(fans)) ** 0.5 for name, fans in xavier.items()}
    default = {
        "seg_affinity/theta": 64,
        "sal_affinity/m": 64,
        "seg_affinity/W": 64,
        "cross_pairwise/conv_3x3": 18,
        "cross_pairwise/conv_1x1": 2,
    }
    bounds |= {f"{name}/kernel": fan_in**-0.5 for name, fan_in in default.items()}
    bounds |= {
        "seg_affinity/phi/bias": 64**-0.5,
        "seg_branch/conv_2/bias": (9 * 64) ** -0.5,
        "seg_head/conv/bias": (9 * 64) ** -0.5,
    }
    for name, bound in bounds.items():
        largest = np.abs(params[name]).max()
        assert 0.6 * bound < largest <= bound, name


@pytest.mark.parametrize(
    ("affinity", "tasks", "present", "absent"),
    [
        (
            {"unary": False},
            {},
            {"affinity", "cross_pairwise"},
            {"unary", "cross_unary", "seg_gamma"},
        ),
        (
            {"pairwise": False},
            {},
            {"unary", "cross_unary", "seg_gamma"},
            {"affinity", "cross_pairwise"},
        ),
        (
            {"pairwise": False, "unary": False, "refine": "none"},
            {},
            {"seg"},
            {"affinity", "unary", "cross_pairwise", "seg_affinity"},
        ),
        ({"cross_task": False}, {}, {"affinity", "unary"}, {"cross_pairwise", "cross_unary"}),
        ({"refine": "seg"}, {}, {"seg_gamma"}, {"sal_gamma"}),
        ({"refine": "none"}, {}, {"affinity"}, {"seg_gamma", "sal_gamma"}),
        ({}, {"sal": False}, {"seg", "affinity"}, {"sal", "sal_branch", "cross_pairwise"}),
        ({}, {"cls": False}, {"seg", "sal"}, {"cls_logits", "cam", "cls_head"}),
    ],
)
def test_switches(image, affinity, tasks, present, absent):
    params, out = outputs_of(network(affinity, tasks), image)
    there = set(params) | set(out)
    assert present <= there and not absent & there
    refined = {task for task in ("seg", "sal") if "refined" in out.get(task, {})}
    mode = (AFFINITY | affinity)["refine"]
    assert refined == ({"none": set(), "seg": {"seg"}, "both": {"seg", "sal"}}[mode] & set(out))


def test_head_convolution_is_optional(image):
    assert set(outputs_of(network(head_conv=False), image)[0]["seg_head"]) == {"predict"}
    assert set(outputs_of(network(), image)[0]["seg_head"]) == {"conv", "predict"}


def test_it_starts_as_auxsegnet(image):
    """With gamma 0 the refined prediction is the pairwise one alone."""
    _, out = outputs_of(network(), image)
    flat = np.asarray(out["seg"]["initial"]).reshape(2, 12, 4)
    np.testing.assert_allclose(
        np.asarray(out["affinity"].whole) @ flat,
        np.asarray(out["seg"]["refined"]).reshape(2, 12, 4),
        rtol=1e-5,
        atol=1e-5,
    )


def test_normalized_rows(image):
    _, out = outputs_of(network({"normalize_rows": True}), image)
    np.testing.assert_allclose(out["affinity"].whole.sum(-1), 1, rtol=1e-5)


def test_blocks_of_the_affinity_change_nothing(image):
    params, whole = outputs_of(network(), image)
    _, blocks = outputs_of(
        network({"block_mib": 2 * fusion.MAPS_ALIVE_EACH * 4 * 2 * 12 * 5 / 2**20}), image, params
    )  # 5 rows of 12 positions of 2 photos
    assert blocks["affinity"].whole is None and blocks["affinity"].block == 4  # three times four
    for task in ("seg", "sal"):
        for kind in ("initial", "refined"):
            np.testing.assert_allclose(blocks[task][kind], whole[task][kind], rtol=1e-5, atol=1e-5)
    walk = {"beta": 2.0, "steps": 3, "normalize": True, "restart": 0.2}
    walked = [
        random_walk.random_walk(jax.nn.relu(whole["cam"]), out["affinity"], **walk)
        for out in (whole, blocks)
    ]
    np.testing.assert_allclose(*walked, rtol=1e-5, atol=1e-5)


def test_cams_are_before_dropout_and_dropout_takes_whole_channels(image):
    net = network()
    params, still = outputs_of(net, image)
    _, moving = outputs_of(net, image, params, train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(moving["cam"], still["cam"])
    np.testing.assert_array_equal(moving["seg"]["refined"], still["seg"]["refined"])
    assert not np.allclose(moving["cls_logits"], still["cls_logits"])


def test_positions_outside_the_photo_are_no_keys(image):
    inside = np.ones(image.shape[:3], bool)
    inside[:, 15:] = False
    _, out = outputs_of(network({"cross_task": False}), image, inside=inside)
    grid = np.zeros((3, 4), bool)
    grid[:2] = True  # the third row of cells begins at pixel floor(2 * 23 / 3) = 15
    np.testing.assert_array_equal(np.asarray(out["affinity"].whole)[:, :, ~grid.reshape(-1)], 0)
    np.testing.assert_allclose(out["affinity"].whole.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(out["unary"])[:, ~grid.reshape(-1)], 0)


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "tiny", "output_stride": 8, "width": 16},
        {"name": "efficientnet_lite0", "output_stride": 16, "head": False},
    ],
)
@pytest.mark.slow
def test_a_photo_gives_the_same_outputs_in_every_bucket(rng, backbone):
    net = network(
        {"cross_task": False}, backbone=backbone
    )  # the fusion's 3x3 convolution sees another row length
    image = rng.normal(size=(1, 32, 48, 3)).astype(np.float32)
    padded, inside = np.zeros((1, 64, 80, 3), np.float32), np.zeros((1, 64, 80), bool)
    padded[:, :32, :48], inside[:, :32, :48] = image, True
    params = jax.tree.map(
        lambda p: p + 0.1, jax.jit(net.init)(jax.random.key(0), image)["params"]
    )  # biases are not 0
    one, two = (
        jax.jit(net.apply)({"params": params}, x, inside=i)
        for x, i in ((image, np.ones((1, 32, 48), bool)), (padded, inside))
    )
    rows, columns = one["cam"].shape[1:3]
    for a, b in (
        (one["cam"], two["cam"]),
        (one["seg"]["refined"], two["seg"]["refined"]),
        (one["sal"]["initial"], two["sal"]["initial"]),
    ):
        np.testing.assert_allclose(a, b[:, :rows, :columns], rtol=2e-4, atol=2e-4 * np.abs(a).max())
    np.testing.assert_allclose(one["cls_logits"], two["cls_logits"], rtol=2e-4)


class TinyWithAttention(nn.Module):
    """A backbone with two attention heads."""

    output_stride: int = 8

    @nn.compact
    def __call__(self, image, inside=None, train=False):
        features = Tiny(self.output_stride, 16, name="tiny")(image, inside, train).features
        flat = features.reshape(len(features), -1, features.shape[-1])
        heads = [Attention(flat[..., :4], flat[..., 4:8]), Attention(flat[..., 8:], flat[..., :8])]
        return BackboneOutput(features, heads)


@pytest.mark.parametrize("rows", [None, 5])
def test_the_attention_of_a_backbone_is_fused_with_the_tasks_maps(image, monkeypatch, rows):
    record = Backbone(TinyWithAttention, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), {})
    monkeypatch.setitem(backbones.BACKBONES, "dummy", record)
    block_mib = 4 * fusion.MAPS_ALIVE_EACH * 4 * 2 * 12 * (rows or 12) / 2**20
    net = network({"block_mib": block_mib}, backbone={"name": "dummy"})
    params, out = outputs_of(net, image)
    assert params["cross_pairwise"]["conv_3x3"]["kernel"].shape == (3, 3, 4, 4)
    assert len(out["affinity"].queries) == 4 and (out["affinity"].whole is None) == bool(rows)
    assert params["cross_unary"]["conv_3x3"]["kernel"].shape == (3, 3, 2, 2)
    assert out["seg"]["refined"].shape == (2, 3, 4, 4)
    without = {"backbone_attention": False, "cross_task": True}
    params, _ = outputs_of(network(without, backbone={"name": "dummy"}), image)
    assert params["cross_pairwise"]["conv_3x3"]["kernel"].shape == (3, 3, 2, 2)


def test_heads_are_further_sources_of_the_fusion(image):
    params, out = outputs_of(network({"heads": 2}), image)
    assert params["cross_pairwise"]["conv_3x3"]["kernel"].shape == (3, 3, 4, 4)
    _, alone = outputs_of(network({"heads": 2, "cross_task": False}), image)
    assert len(out["affinity"].queries) == 4 and len(alone["affinity"].queries) == 2
    np.testing.assert_allclose(alone["affinity"].whole.sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_layers_and_frozen_patterns_of_every_backbone_match():
    for name, record in backbones.BACKBONES.items():
        net = network(backbone=record.section(name))
        image = jax.ShapeDtypeStruct((1, 33, 33, 3), np.float32)
        params = jax.eval_shape(lambda x, n=net: n.init(jax.random.key(0), x)["params"], image)
        backbone = {"backbone": params["backbone"]}
        for pattern in (*record.frozen, *record.layers):
            trees.mask(backbone, [pattern])  # raises if it matches nothing
        covered = trees.flatten(trees.mask(backbone, record.layers))
        assert all(covered.values()), [path for path, found in covered.items() if not found]


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_dilation_takes_the_place_of_stride(stride):
    x = np.zeros((1, 65, 70, 3), np.float32)
    out = jax.eval_shape(
        lambda v: efficientnet_lite.EfficientNetLite0(stride).init_with_output(
            jax.random.key(0), v
        )[0],
        x,
    ).features
    assert out.shape == (1, -(-65 // stride), -(-70 // stride), 1280)


def test_imagenet_weights_know_a_cat():
    data = pytest.importorskip("skimage.data", reason="the photo is scikit-image's")
    photo = data.chelsea()
    side = int(min(photo.shape[:2]) * 0.875)
    top, left = ((n - side) // 2 for n in photo.shape[:2])
    crop = cv2.resize(
        photo[top : top + side, left : left + side].astype(np.float32),
        (224, 224),
        interpolation=cv2.INTER_CUBIC,
    )
    image = (crop[None] - BACKBONE.mean[0]) / BACKBONE.std[0]
    module = efficientnet_lite.EfficientNetLite0(32)
    template = jax.eval_shape(lambda x: module.init(jax.random.key(0), x)["params"], image)
    params = pretrained.load({"backbone": template}, "efficientnet_lite0", "")["backbone"]
    assert trees.flatten(params).keys() == trees.flatten(template).keys()
    features = np.asarray(jax.jit(module.apply)({"params": params}, image).features)
    packaged = pretrained.read_packaged("efficientnet_lite0")
    logits = features.mean((1, 2))[0] @ packaged["_fc.weight"].T + packaged["_fc.bias"]
    cats = {281, 282, 283, 284, 285}  # tabby, tiger cat, Persian, Siamese, Egyptian
    top5 = set(np.argsort(-logits)[:3].tolist())
    assert top5 <= cats, top5
    # The reference implementation of these weights gives this photo .385 tiger cat, .363 Egyptian
    # cat with its own resize.
    probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert int(logits.argmax()) == 282 and 0.3 < probability[282] < 0.5


def test_photos_are_normalised_on_the_device(rng):
    photo = rng.integers(0, 256, (2, 5, 6, 3), np.uint8)
    inside = np.ones((2, 5, 6), bool)
    inside[1, 3:] = False
    record = backbones.find("resnet38")
    net = network(backbone={"name": "resnet38"})
    found = jax.jit(lambda x, inside: auxsegnet.normalize(net, x, inside))(photo, inside)
    wanted = (photo - np.float32(record.mean)) / np.float32(record.std)
    np.testing.assert_allclose(found, np.where(inside[..., None], wanted, 0), rtol=1e-6, atol=1e-6)
