"""The official AuxSegNet in numbers: `pytest tests/parity_test.py --recorded DIR`.

DIR holds arrays recorded from the authors' PyTorch code (NCHW, OIHW), its weights made from a
formula of the key's name and the seed in the file's name, so that nothing large is stored. Every
file of the kind is compared, whatever its seed and size; the worst error of each array is printed
at the end.
"""

import dataclasses
import functools
import json
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import recorded_arrays, state_dict

from auxseg_jax import trees
from auxseg_jax.analysis import official
from auxseg_jax.configs import common
from auxseg_jax.data import transforms
from auxseg_jax.devices import compilation
from auxseg_jax.inference import cam as cam_lib
from auxseg_jax.inference import crf
from auxseg_jax.models import auxsegnet, fusion, pairwise
from auxseg_jax.models.layers import resize_bilinear
from auxseg_jax.pseudo import fuse, random_walk
from auxseg_jax.runs import build
from auxseg_jax.training import losses, optimizer
from auxseg_jax.weights import names as torch_names

ROUNDING_RTOL = 2e-5
"""float32 sums of some thousand products, in another order, differ by some 1e-6 of their size."""
FUSION = {
    "cam_threshold": 0.2,
    "saliency_threshold": 0.06,
    "spill_threshold": 0.2,
    "empty_is_background": False,
}
ALWAYS_ZERO = (
    "seg_att.phi.bias",
    "sal_att.phi.bias",
)  # softmax does not see a shift of its keys: what is recorded is noise


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        folder = recorded_arrays(metafunc.config)
        found = sorted(
            p.stem for p in folder.glob("auxsegnet_wr38_seed*.npz") if not p.stem.endswith("_grads")
        )
        absent = [
            pytest.param(
                "",
                marks=pytest.mark.skip(
                    reason=f"no auxsegnet_wr38_seed*.npz in {folder} (--recorded DIR)"
                ),
            )
        ]
        metafunc.parametrize("case", found or absent, indirect=True, scope="module")


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def rows(x):
    """[B, C, h, w] -> [B, h*w, C]."""
    return nhwc(x).reshape(len(x), -1, x.shape[1])


@functools.cache
def network():
    """The authors' network, in which every product is float32."""
    config = common.get_config("official")
    common.set_backbone(config, "resnet38")
    return config, official.network()


@dataclasses.dataclass
class Case:
    """A recorded forward pass and ours."""

    name: str
    folder: pathlib.Path
    seed: int
    recorded: dict[str, np.ndarray]

    @functools.cached_property
    def ours(self) -> tuple[dict, dict]:
        """(outputs, output of every module by its path)."""
        _, net = network()

        @compilation.jit
        def apply(params, image):
            return net.apply(
                {"params": params}, image, capture_intermediates=True, mutable=["intermediates"]
            )

        outputs, state = apply(official.weights(self.seed)[0], nhwc(self.recorded["x"]))
        modules = {
            name.removesuffix("/__call__"): value[0]
            for name, value in trees.flatten(state["intermediates"]).items()
        }
        return outputs, modules


@pytest.fixture(scope="module")
def case(request) -> Case:
    folder = recorded_arrays(request.config)
    seed = int(re.match(r"auxsegnet_wr38_seed(\d+)", request.param)[1])
    return Case(request.param, folder, seed, dict(np.load(folder / f"{request.param}.npz")))


@pytest.fixture
def fixture(request):
    folder = recorded_arrays(request.config)

    def load(name):
        if not (folder / name).exists():
            pytest.skip(f"no {name} in {folder} (--recorded DIR)")
        return dict(np.load(folder / name))

    return load


@pytest.mark.slow
def test_the_weights_are_those_of_the_formula(case):
    info = case.folder / "fixtures_info.json"
    if not info.exists():
        pytest.skip(f"no {info.name} to check against")
    recorded = json.loads(info.read_text())["weights_crc32"]
    if str(case.seed) not in recorded:
        pytest.skip(f"{info.name} has no checksums of seed {case.seed}")
    state = official.weights(case.seed)[1]
    wrong = [
        key
        for key, value in state.items()
        if zlib.crc32(np.ascontiguousarray(value).tobytes()) != recorded[str(case.seed)][key]
    ]
    assert not wrong
    back = state_dict(official.weights(case.seed)[0], torch_names.auxsegnet)
    assert all(
        np.array_equal(back[key], value) for key, value in state.items()
    )  # there and back, bit by bit
    exported = back | torch_names.unused(
        back["seg_conv1.weight"].shape[0]
    )  # as `pretrained.convert` writes it
    counters = {
        key for key in recorded[str(case.seed)] if key.endswith("num_batches_tracked")
    }  # load_state_dict does without
    assert set(exported) == set(recorded[str(case.seed)]) - counters
    left = [key for key in recorded[str(case.seed)] if key not in state]
    assert all(trees.matches(key, torch_names.EXCUSED) for key in left), left


def test_normalisation(case, compare):
    photo = case.recorded["image_u8"]
    found = auxsegnet.normalize(official.network(), photo, np.ones(photo.shape[:3], bool))
    compare(f"{case.name} x", found, nhwc(case.recorded["x"]), atol=1e-6)


@pytest.mark.slow
def test_outputs(case, compare):
    outputs, _ = case.ours
    pairs = {
        "x_cls": (outputs["cls_logits"], 5e-5),
        "cam": (outputs["cam"], 5e-5),
        "init_sal": (outputs["sal"]["initial"], 5e-5),
        "refined_sal": (outputs["sal"]["refined"], 5e-5),
        "init_seg": (outputs["seg"]["initial"], 5e-5),
        "refined_seg": (outputs["seg"]["refined"], 5e-5),
        "cross_aff": (outputs["affinity"].whole, 2e-5),
    }
    for name, (found, tolerance) in pairs.items():
        wanted = case.recorded[name]
        compare(
            f"{case.name} {name}",
            found,
            nhwc(wanted) if wanted.ndim == 4 else wanted,
            atol=tolerance,
        )
    wanted = case.recorded["cross_aff"]
    assert np.linalg.norm(outputs["affinity"].whole - wanted) <= 5e-5 * np.linalg.norm(wanted)


def test_inner_activations(case, compare):
    _, modules = case.ours
    relu = jax.nn.relu
    maps = [modules[f"{task}_affinity"][1][0].whole for task in ("seg", "sal")]
    hidden, gate = (
        jnp.stack(planes, -1)
        for planes in fusion._gates(maps, modules["cross_pairwise"], halo=False)
    )
    taps = {"conv6": modules["backbone"].features, "cross_att0": hidden, "cross_w": gate}
    for task in ("seg", "sal"):
        enhanced, (pairwise,), _ = modules[f"{task}_affinity"]
        taps |= {
            f"{task}_conv1_relu": relu(modules[f"{task}_branch/conv_1"]),
            f"{task}_conv2_relu": modules[f"{task}_branch"],
            f"{task}_aff": pairwise.whole,
            f"{task}_feats_refined": enhanced,
            f"{task}_conv3_relu": relu(modules[f"{task}_head/conv"]),
        }
    for index, name in enumerate(case.recorded["tap_names"]):
        found = np.asarray(taps[name] if name in taps else modules[f"backbone/{name}"], np.float64)
        found = np.moveaxis(found, -1, 1) if found.ndim == 4 else found
        spread = case.recorded["tap_std"][index]
        assert found.shape == tuple(n for n in case.recorded["tap_shape"][index] if n), name
        compare(
            f"{case.name} {name} mean",
            found.mean(),
            case.recorded["tap_mean"][index],
            atol=1e-4 * spread,
        )
        compare(f"{case.name} {name} std", found.std(), spread, atol=1e-4 * spread)
        # Most entries of an affinity are near 0, as for cross_aff. An entry of a softmax is rounded
        # relative to its own size, which may be thousands of times the spread.
        extreme = 1e-4 * spread + (2e-5 if name.endswith("_aff") else 0)
        for what, value in (("min", found.min()), ("max", found.max())):
            wanted = case.recorded[f"tap_{what}"][index]
            compare(f"{case.name} {name} {what}", value, wanted, rtol=ROUNDING_RTOL, atol=extreme)
        compare(
            f"{case.name} {name} first 16",
            found.reshape(-1)[:16],
            case.recorded["tap_first16"][index],
            rtol=ROUNDING_RTOL if name.endswith("_aff") else 0.0,
            atol=1e-4 * spread,
        )


@pytest.mark.slow
def test_losses_and_gradients(case, compare):
    path = case.folder / f"{case.name}_grads.npz"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    recorded = dict(np.load(path))
    _, net = network()
    batch = {
        "labels": recorded["target_cls"],
        "saliency": recorded["target_sal"].astype(np.float32),
        "segmentation": recorded["target_seg"].astype(np.int32),
    }

    def total(params, image):
        found = losses.stage_losses(
            net.apply({"params": params}, image), batch, losses.counts(batch)
        )
        return losses.total(found, classification=1.0, saliency=1.0, segmentation=1.0), found

    (value, found), grads = compilation.jit(jax.value_and_grad(total, has_aux=True))(
        official.weights(case.seed)[0], nhwc(case.recorded["x"])
    )
    names = {"cls_loss": "loss_cls"} | {
        f"{kind}_{task}_loss": f"loss_{task}_{long}"
        for task in ("sal", "seg")
        for kind, long in (("init", "initial"), ("refined", "refined"))
    }
    for name, wanted in zip(recorded["loss_names"], recorded["loss_values"], strict=True):
        compare(
            f"{case.name} {name}", found[names[name]] if name in names else value, wanted, rtol=1e-5
        )
    grads = state_dict(grads, torch_names.auxsegnet)
    for name in recorded["no_grad_names"]:
        if name in grads and name != "conv1a.weight":  # frozen by optimizer.frozen instead
            assert not np.any(grads[name]), name
    for name, wanted in zip(recorded["all_grad_names"], recorded["all_grad_norms"], strict=True):
        if name not in ALWAYS_ZERO:
            compare(
                f"{case.name} gradient norm {name}",
                np.linalg.norm(grads[name].astype(np.float64)),
                wanted,
                rtol=5e-4,
            )
    for index, name in enumerate(recorded["grad_names"]):
        if name in ALWAYS_ZERO:
            continue
        flat, scale = grads[name].reshape(-1), recorded["grad_max_abs"][index]
        first = np.pad(flat[:16], (0, max(16 - flat.size, 0)))
        compare(
            f"{case.name} gradient {name} first 16",
            first,
            recorded["grad_first16"][index],
            atol=5e-4 * scale,
        )
        compare(
            f"{case.name} gradient {name} spread 16",
            flat[np.arange(16) * flat.size // 16],
            recorded["grad_spread16"][index],
            atol=5e-4 * scale,
        )


@pytest.mark.parametrize(
    ("name", "momentum", "steps"),
    [("official", 1e-5, 10), ("wd0p1", 0.1, 10), ("past_end", 1e-5, 3)],
)
def test_optimizer(fixture, compare, name, momentum, steps):
    recorded = fixture("optimizer_poly_cls.npz")
    params = {"p1": recorded["p1_init"], "p2": recorded["p2_init"]}
    section = dict(common.get_config("official").optimizer) | {
        "heads": ("p2",),
        "frozen": (),
        "momentum": momentum,
    }
    transform = optimizer.make_optimizer(params, steps, optimizer.Options(lr=7e-4, **section))
    state = transform.init(params)
    for index in range(len(recorded[f"{name}_p1"])):
        rates = [
            optimizer.poly_schedule(rate, section["power"], steps)(index) for rate in (7e-4, 7e-3)
        ]
        compare(f"optimizer {name} rate {index}", rates, recorded[f"{name}_lr"][index], rtol=1e-6)
        updates, state = transform.update(
            {"p1": recorded["g1"][index], "p2": recorded["g2"][index]}, state, params
        )
        params = optax.apply_updates(params, updates)
        for key in params:
            compare(
                f"optimizer {name} {key} step {index}",
                params[key],
                recorded[f"{name}_{key}"][index],
                rtol=1e-6,
                atol=1e-7,
            )


def test_fusion_is_exact(fixture):
    recorded = fixture("post_fusion_cam.npz")
    found = fuse.fuse(nhwc(recorded["cam"]), recorded["sal"][:, 0], recorded["label"], **FUSION)
    np.testing.assert_array_equal(found, recorded["out"])


@pytest.mark.slow
def test_label_update(case, compare):
    path = case.folder / f"post_gen_pgt_seed{case.seed}.npz"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    recorded, forward = dict(np.load(path)), case.recorded
    if forward["cam"].shape != recorded["norm_cam"].shape:
        pytest.skip(f"{path.name} is of another size")
    size = recorded["pgt"].shape[1:]
    maps = cam_lib.normalize(jnp.asarray(nhwc(forward["cam"])))
    compare("update norm_cam", maps, nhwc(recorded["norm_cam"]), atol=1e-6)
    walked = random_walk.random_walk(
        maps,
        pairwise.Pairwise.of(jnp.asarray(forward["cross_aff"])),
        **common.get_config("official").walk,
    )
    compare("update refined_cam_low", walked, nhwc(recorded["refined_cam_low"]), atol=2e-5)
    large = resize_bilinear(walked, size)
    compare("update refined_cam_up", large, nhwc(recorded["refined_cam_up"]), atol=2e-5)
    saliency = resize_bilinear(jax.nn.sigmoid(jnp.asarray(nhwc(forward["refined_sal"]))), size)
    compare("update ref_sal_up", saliency, nhwc(recorded["ref_sal_up"]), atol=2e-5)
    fused = (saliency[..., 0] + recorded["sal_init_u8"] / np.float32(255)) / 2
    compare("update fused_sal", fused, recorded["fused_sal"], atol=2e-5)
    sharpen = compilation.jit(
        jax.vmap(
            functools.partial(
                crf.saliency, options=build.crf_options(common.get_config("official"), "saliency")
            )
        )
    )
    sharpened, wanted = (
        sharpen(forward["image_u8"].astype(np.float32), fused, np.ones(fused.shape, bool)),
        recorded["crf_sal"].reshape(fused.shape),
    )
    compare("update crf_sal", sharpened, wanted, atol=5e-3)  # a pixel in another simplex
    assert (np.abs(sharpened - wanted) <= 1e-5).mean() >= 0.999
    labels = fuse.fuse(large, sharpened, recorded["label"], **FUSION)
    assert np.mean(labels == recorded["pgt"]) >= 0.999
    exact = fuse.fuse(
        nhwc(recorded["refined_cam_up"]),
        recorded["crf_sal"].reshape(fused.shape),
        recorded["label"],
        **FUSION,
    )
    np.testing.assert_array_equal(exact, recorded["pgt"])


def test_resize(fixture, compare):
    recorded = fixture("resize.npz")
    image = jnp.asarray(nhwc(recorded["bilinear_in"]))
    compare(
        "resize 97x129",
        resize_bilinear(image, (97, 129)),
        nhwc(recorded["bilinear_97x129"]),
        atol=1e-5,
    )
    compare(
        "resize 104x136",
        resize_bilinear(image[:1], (104, 136)),
        nhwc(recorded["bilinear_104x136"]),
        atol=1e-5,
    )
    _, pull = jax.vjp(lambda x: resize_bilinear(x, (97, 129)), image[:1])
    compare(
        "resize gradient",
        pull(jnp.asarray(nhwc(recorded["bilinear_cotangent"])))[0],
        nhwc(recorded["bilinear_grad_in"]),
        atol=1e-4,
    )


def test_resize_of_the_loader(fixture, compare):
    recorded = fixture("resize.npz")
    example = {
        "image": recorded["cv_img_u8"].astype(np.float32),
        "saliency": recorded["cv_sal"],
        "segmentation": recorded["cv_gt"],
    }
    from_size = np.array(example["saliency"].shape)
    for index in range(len(recorded["cv_scales"])):
        size = np.array(recorded[f"cv_gt_{index}"].shape)
        # the authors truncate the new size, `rescale` rounds it: a factor that rounds to theirs
        factor = (np.max((size - 0.5) / from_size) + np.min((size + 0.5) / from_size)) / 2
        found = transforms.rescale(example, factor)
        compare(f"loader image {index}", found["image"], recorded[f"cv_img_{index}"], atol=1e-4)
        compare(
            f"loader saliency {index}", found["saliency"], recorded[f"cv_sal_{index}"], atol=1e-6
        )
        np.testing.assert_array_equal(found["segmentation"], recorded[f"cv_gt_{index}"])
