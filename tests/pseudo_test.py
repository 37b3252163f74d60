"""Random walk, fusion rule, CAMs and the update, against plain numpy."""

import functools
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from auxseg_jax.analysis import twins
from auxseg_jax.grid import Grid
from auxseg_jax.inference import cam, crf
from auxseg_jax.inference.segmentation import Views
from auxseg_jax.models.pairwise import Pairwise
from auxseg_jax.pseudo import random_walk, update
from auxseg_jax.pseudo.fuse import fuse


@pytest.mark.parametrize("restart", [0.0, 0.3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("beta", "steps"), [(1.0, 1), (1.0, 3), (4.0, 2), (2.5, 0)])
def test_random_walk(rng, beta, steps, normalize, restart):
    maps = rng.random((2, 7, 5, 3)).astype(np.float32)
    matrix = rng.dirichlet(np.ones(35), (2, 35)).astype(np.float32)
    found = random_walk.random_walk(
        maps, Pairwise.of(matrix), beta=beta, steps=steps, normalize=normalize, restart=restart
    )
    for b in range(2):
        options = {"beta": beta, "steps": steps, "normalize": normalize, "restart": restart}
        expected = twins.random_walk(maps[b].reshape(35, 3), matrix[b], **options)
        np.testing.assert_allclose(found[b].reshape(35, 3), expected, rtol=2e-5, atol=1e-7)


def test_the_papers_walk_is_one_product(rng):
    maps, matrix = (
        rng.random((1, 3, 4, 2)).astype(np.float32),
        rng.random((1, 12, 12)).astype(np.float32),
    )
    found = random_walk.random_walk(
        maps, Pairwise.of(matrix), beta=1.0, steps=1, normalize=False, restart=0.0
    )
    np.testing.assert_array_equal(
        found.reshape(12, 2), jnp.einsum("bij,bjc->bic", matrix, maps.reshape(1, 12, 2))[0]
    )


def slow_fuse(maps, saliency, labels, cam_threshold, saliency_threshold, spill_threshold, empty):
    out = np.zeros(saliency.shape, np.uint8)
    for index in np.ndindex(saliency.shape):
        scores = [maps[index][c] if labels[index[0]][c] else 0.0 for c in range(maps.shape[-1])]
        best = max(range(len(scores)), key=lambda c: (scores[c], -c))
        is_object, is_salient = (
            scores[best] > np.float32(cam_threshold),
            saliency[index] > np.float32(saliency_threshold),
        )
        out[index] = (
            best + 1
            if is_object and is_salient
            else 255
            if is_salient or scores[best] > np.float32(spill_threshold)
            else 0
        )
        if empty and not labels[index[0]].any():
            out[index] = 0
    return out


@pytest.mark.parametrize("spill_threshold", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("empty", [False, True])
def test_fuse_on_edges(rng, spill_threshold, empty):
    values = np.array(
        [0, 0.1, np.nextafter(np.float32(0.2), 0), 0.2, np.nextafter(np.float32(0.2), 1), 0.5, 1],
        np.float32,
    )
    grey = np.array(
        [0, np.nextafter(np.float32(0.06), 0), 0.06, np.nextafter(np.float32(0.06), 1), 0.5, 1],
        np.float32,
    )
    maps = rng.choice(values, (4, 6, 7, 5)).astype(np.float32)
    maps[1, ..., 3] = maps[1, ..., 1]  # ties: the first class wins
    saliency = np.broadcast_to(grey[None, :, None], (4, 6, 7)).copy()
    labels = np.array(
        [[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], np.float32
    )
    found = fuse(
        maps,
        saliency,
        labels,
        cam_threshold=0.2,
        saliency_threshold=0.06,
        spill_threshold=spill_threshold,
        empty_is_background=empty,
    )
    np.testing.assert_array_equal(
        found, slow_fuse(maps, saliency, labels, 0.2, 0.06, spill_threshold, empty)
    )
    assert found.dtype == np.uint8
    assert set(np.unique(found[1])) <= {0, 2, 255}


def test_normalize_ranges(rng):
    maps = rng.normal(size=(2, 7, 5, 3)).astype(np.float32)
    maps[0, ..., 1] = -1
    found = np.asarray(cam.normalize(maps))
    np.testing.assert_array_equal(found[0, ..., 1], 0)
    np.testing.assert_allclose(found[1].max((0, 1)), 1, atol=2e-5)


def test_match_histogram_keeps_the_order_of_one_map_and_the_values_of_the_other(rng):
    maps, reference = rng.uniform(0, 1, (2, 3, 4, 5, 2)).astype(np.float32)
    inside = np.ones((3, 4, 5), bool)
    inside[0, 3:], inside[1, :, 1:], inside[2, 1:, 2:] = False, False, False
    maps[0, ..., 1] = 0  # a class of which nothing is left
    found = np.asarray(cam.match_histogram(maps, reference, inside))
    assert (found[~inside] == 0).all()
    for photo, label in np.ndindex(3, 2):
        values, walked = reference[photo, ..., label], maps[photo, ..., label]
        order = np.argsort(walked[inside[photo]], kind="stable")
        expected = np.zeros(inside[photo].sum(), np.float32)
        expected[order] = np.sort(values[inside[photo]])
        np.testing.assert_array_equal(found[photo, ..., label][inside[photo]], expected)


@pytest.mark.slow
def test_multi_scale_sees_every_view_and_no_padding():
    image = np.zeros((1, 8, 12, 3), np.float32)
    image[0, :, :4, 0] = 1.0  # an object at the left
    inside = np.ones((1, 8, 12), bool)
    inside[0, :, 8:] = False
    seen = []

    def cam_of(view, view_inside):
        seen.append(view.shape[1:3])
        assert view_inside.shape == view.shape[:3]
        return view[..., :1] + 10.0 * ~view_inside[..., None]  # high where there is no photo

    found = cam.multi_scale(
        cam_of,
        jnp.asarray(image),
        jnp.asarray(inside),
        (8, 12),
        scales=(0.5, 1.0, 2.0),
        flip=True,
        grid=Grid(4, 0),
    )
    assert seen == [(4, 8), (4, 8), (8, 12), (8, 12), (16, 24), (16, 24)]
    assert float(found[0, :, 8:].max()) == 0.0
    assert float(found[0, 4, 0, 0]) > 3 * float(
        found[0, 4, 5, 0]
    )  # mirrored views were mirrored back


def test_veto(rng):
    probabilities = rng.dirichlet(np.ones(3), (2, 5, 4)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 255], (2, 5, 4)).astype(np.uint8)
    found = np.asarray(update.apply_veto(labels, probabilities, 0.3))
    for index in np.ndindex(labels.shape):
        kept = labels[index] != 255 and probabilities[index][labels[index]] >= 0.3
        assert found[index] == (labels[index] if kept else 255)


class Outputs:
    """Stands in for a network: the same outputs for every photo; its parameters are its CAM."""

    backbone: ClassVar = {"name": "tiny"}

    def __init__(self, **outputs):
        self.outputs = outputs

    def cast(self, params):
        return params

    def apply(self, variables, image, inside=None, dense=True):
        del image, inside
        return {"cam": variables["params"]["cam"]} | (self.outputs if dense else {})


def logit(p):
    return np.log(p / (1 - p)).astype(np.float32)


def updated(maps_given=True, iterations=0, **changes):
    """The update on a photo of 2 x 2 pixels at 2 x 2 positions: nothing is interpolated."""
    walk = np.array(
        [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]], np.float32
    )[None]
    cams = {
        "stage": {"cam": np.array([[[[3.0], [1.0]], [[0.0], [-1.0]]]], np.float32)},
        "classifier": {"cam": np.array([[[[0.0], [0.0]], [[8.0], [8.0]]]], np.float32)},
    }
    salient = np.array([[[[0.9], [0.9]], [[0.9], [0.02]]]])
    segmentation = np.array([[[[-9.0, 9.0], [9.0, -9.0]], [[0.0, 0.0], [0.0, 0.0]]]], np.float32)
    network = Outputs(
        affinity=Pairwise.of(walk), sal={"initial": logit(salient)}, seg={"initial": segmentation}
    )
    options = {
        "scales": (1.0,),
        "flip": False,
        "window": 0,
        "classifier_weight": 0.0,
        "rescale": "none",
        "saliency_weight": 0.5,
        "veto": 0.0,
    }
    options = update.UpdateOptions(**(options | changes))
    crf_options = crf.CrfOptions("lattice", iterations, 3.0, 3.0, 60.0, 5.0, 5.0)
    fusion = {
        "cam_threshold": 0.7,
        "saliency_threshold": 0.5,
        "spill_threshold": 0.7,
        "empty_is_background": False,
    }
    batch = {
        "image": np.zeros((1, 2, 2, 3), np.uint8),
        "inside": np.ones((1, 2, 2), bool),
        "labels": np.ones((1, 1), np.float32),
        "saliency": np.array([[[0.9, 0.9], [0.0, 0.0]]], np.float32),
    }
    if not maps_given:
        del batch["saliency"]
    if options.classifier_weight:
        shape = {"network": network, "grid": Grid(1, 0), "seen": Views((1.0,), False)}
        kept = update.classifier_cam(cams["classifier"], batch, **shape)
        batch["classifier_cam"] = kept["cam"]
    walks = {"beta": 1.0, "steps": 1, "normalize": False, "restart": 0.0}
    propagate = functools.partial(
        update.propagate,
        network=network,
        grid=Grid(1, 0),
        options=options,
        walk=functools.partial(random_walk.random_walk, **walks),
    )
    out = update.updated_labels(
        cams["stage"],
        batch,
        propagate=propagate,
        options=options,
        fuse=functools.partial(fuse, **fusion),
        crf=crf_options,
    )
    return np.asarray(out["segmentation"])[0].tolist(), np.asarray(out["saliency"])[0].tolist()


def test_the_update_follows_the_papers_rule():
    # CAM 1, 1/3, 0, 0 walks to 2/3, 2/3, 0, 0: below the threshold of 0.7; S = (P + S0) / 2
    labels, saliency = updated()
    assert labels == [[255, 255], [0, 0]]
    assert saliency == [[230, 230], [115, 3]]


def test_without_saliency_maps_the_cam_is_one():
    # the walked CAM is 2/3, 2/3, 0, 0: between the thresholds nothing is labelled
    assert updated(maps_given=False, saliency_weight=0.0) == (
        [[255, 255], [0, 0]],
        [[170, 170], [0, 0]],
    )
    assert updated(maps_given=False, saliency_weight=0.0, rescale="maximum") == (
        [[1, 1], [0, 0]],
        [[255, 255], [0, 0]],
    )
    assert updated(maps_given=False)[1] == [[200, 200], [115, 3]]
    batch = {
        "image": np.zeros((1, 2, 2, 3), np.uint8),
        "inside": np.ones((1, 2, 2), bool),
        "labels": np.array([[1.0, 0.0]], np.float32),
    }
    # The second class is not in the photo.
    cam = np.array([[[[3.0, 0.0], [1.8, 0.0]], [[0.0, 5.0], [0.3, 0.0]]]], np.float32)
    fusion = {
        "cam_threshold": 0.7,
        "saliency_threshold": 0.5,
        "spill_threshold": 0.7,
        "empty_is_background": False,
    }
    seen = Views((1.0,), False)
    out = update.initial_labels(
        {"cam": cam},
        batch,
        network=Outputs(),
        grid=Grid(1, 0),
        seen=seen,
        fuse=functools.partial(fuse, **fusion),
    )
    assert out["segmentation"][0].tolist() == [[1, 255], [0, 0]] and out["saliency"][
        0
    ].tolist() == [[255, 153], [0, 25]]


def test_the_update_sharpens_the_mixed_saliency_by_the_photo(monkeypatch):
    given = []

    def sharpen(image, probability, inside, options):
        given.append(options)
        return 1 - probability + 0 * image[..., 0] * inside

    monkeypatch.setattr(update.crf_lib, "saliency", sharpen)
    labels, saliency = updated(iterations=1)
    assert saliency == [[26, 26], [140, 252]] and labels == [[0, 0], [255, 255]]
    assert {options.iterations for options in given} == {1}


def test_the_update_rescales_weighs_mixes_and_vetoes():
    assert updated(rescale="maximum")[0] == [[1, 1], [0, 0]]
    assert updated(rescale="maximum", saliency_weight=0.0)[1] == [[230, 230], [0, 0]]
    assert updated(rescale="maximum", saliency_weight=1.0)[0] == [[1, 1], [255, 0]]
    assert updated(rescale="maximum", veto=0.1)[0] == [[1, 255], [0, 0]]
    # the mean of both CAMs walks to 1/2 (2/3, 2/3, 1, 1); scaled to 2/3, 2/3, 1, 1 it passes 0.7
    # below only
    assert updated(classifier_weight=0.5, rescale="maximum", saliency_weight=1.0)[0] == [
        [255, 255],
        [1, 255],
    ]
    assert updated(classifier_weight=1.0, saliency_weight=1.0)[0] == [[255, 255], [1, 255]]
    # with its own values, 1, 1/3, 1, 1, in the order of the walk: 1/3 is where the walk is lowest
    found = updated(classifier_weight=0.5, rescale="histogram", saliency_weight=1.0)[0]
    assert found == [[255, 1], [1, 255]]
