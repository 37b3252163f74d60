"""The dense CRF: its lattice against pydensecrf's recorded outputs, its exact filter against numpy.

`pytest tests/crf_test.py --recorded DIR` compares every crf_*.npz in DIR, whatever photos and sizes
they hold.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import recorded_arrays

from auxseg_jax.analysis import twins
from auxseg_jax.configs import common
from auxseg_jax.devices import compilation
from auxseg_jax.inference import crf, permutohedral

OPTIONS = {
    use: dict(common.get_config("official").crf[use]) for use in ("saliency", "segmentation")
}


@functools.cache
def jitted(use, filter="lattice", **changes):
    options = crf.CrfOptions(filter=filter, **(OPTIONS[use] | changes))
    return compilation.jit(functools.partial(getattr(crf, use), options=options))


def field(filter, **changes):
    options = OPTIONS["segmentation"] | {"iterations": 3} | changes
    return functools.partial(crf.mean_field, options=crf.CrfOptions(filter=filter, **options))


@functools.cache
def jitted_field(filter, **changes):
    return compilation.jit(field(filter, **changes))


def everywhere(image):
    return np.ones(image.shape[:2], bool)


def photo(rng, height=21, width=30):
    """A photo of a few smooth patches with some noise."""
    y, x = np.mgrid[:height, :width]
    patches = 40 * (x // 9) + 60 * (y // 8)
    return (
        (
            np.stack([patches, 255 - patches, 0.5 * patches], -1)
            + rng.normal(0, 4, (height, width, 3))
        )
        .clip(0, 255)
        .astype(np.float32)
    )


def energies(rng, height=21, width=30, labels=4):
    return rng.gamma(1.0, 1.0, (height, width, labels)).astype(np.float32)


def agrees(name, found, wanted):
    """float32 in another order; a point may fall into another simplex, which costs up to 1e-3."""
    error = np.abs(np.asarray(found, np.float64) - wanted)
    print(f"{name}: worst {error.max():.1e}, {100 * (error > 1e-5).mean():.3f}% above 1e-5")
    assert (error <= 1e-5).mean() >= 0.999, name
    assert error.max() <= 5e-3, name


def recorded(metafunc, argument, pattern):
    if argument in metafunc.fixturenames:
        folder = recorded_arrays(metafunc.config)
        found = sorted(folder.glob(pattern))
        absent = [
            pytest.param(
                None, marks=pytest.mark.skip(reason=f"no {pattern} in {folder} (--recorded DIR)")
            )
        ]
        metafunc.parametrize(
            argument, found or absent, ids=lambda path: path.stem if path else "absent"
        )


def pytest_generate_tests(metafunc):
    recorded(metafunc, "saliency_file", "crf_sal*.npz")
    recorded(metafunc, "segmentation_file", "crf_seg_in*.npz")


@pytest.mark.slow
def test_saliency_is_pydensecrfs(saliency_file):
    arrays = np.load(saliency_file)
    names = sorted(key.removesuffix("_img") for key in arrays if key.endswith("_img"))
    assert names
    for name in names:
        image, annotation = (
            arrays[f"{name}_img"].astype(np.float32),
            arrays[f"{name}_anno"].astype(np.float32),
        )
        found = np.asarray(jitted("saliency")(image, annotation, everywhere(image)))
        wanted = arrays[f"{name}_out"].reshape(found.shape)
        agrees(name, found, wanted)
        assert ((found > 0.5) == (wanted > 0.5)).mean() >= 0.999


@pytest.mark.slow
def test_segmentation_is_pydensecrfs(segmentation_file):
    arrays = dict(np.load(segmentation_file)) | dict(
        np.load(segmentation_file.with_name(segmentation_file.name.replace("_in", "_out")))
    )
    image, probabilities = (
        arrays["img"].astype(np.float32),
        np.moveaxis(arrays["probs_f16"].astype(np.float32), 0, -1),
    )
    for count in (1, 10):
        found = np.moveaxis(
            np.asarray(
                jitted("segmentation", iterations=count)(image, probabilities, everywhere(image))
            ),
            -1,
            0,
        )
        assert (found.argmax(0) == arrays[f"argmax_t{count}"]).mean() >= 0.999
        compared = arrays["t1_classes"].astype(int) if count == 1 else slice(None)
        agrees(f"{count} iterations", found[compared], arrays[f"out_t{count}"])


def test_exact_is_the_mean_field(rng):
    image, unary = photo(rng, 24, 32), energies(rng, 24, 32, 5)
    options = OPTIONS["segmentation"]
    found = field("exact", **options)(image, unary, everywhere(image))
    np.testing.assert_allclose(found, twins.mean_field(image, unary, options), atol=1e-4)


@pytest.mark.slow
def test_exact_holds_a_block_of_rows_at_a_time(rng, monkeypatch):
    image, unary = photo(rng), energies(rng)
    whole = field("exact")(image, unary, everywhere(image))
    entries = 17 * image.shape[0] * image.shape[1]  # 17 does not divide the rows.
    monkeypatch.setattr(crf, "_KERNEL_ENTRIES_AT_ONCE", entries)
    blocks = field("exact")(image, unary, everywhere(image))
    np.testing.assert_allclose(blocks, whole, atol=1e-6)


@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.slow
def test_probabilities_sum_to_one(rng, filter):
    image, unary = photo(rng), energies(rng)
    found = np.asarray(jitted_field(filter)(image, unary, everywhere(image)))
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_labels_may_be_renamed(rng, filter):
    image, unary = photo(rng), energies(rng)
    order = rng.permutation(unary.shape[-1])
    found = np.asarray(jitted_field(filter)(image, unary, everywhere(image)))
    np.testing.assert_allclose(
        jitted_field(filter)(image, unary[..., order], everywhere(image)),
        found[..., order],
        atol=1e-5,
    )


@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.slow
def test_padding_of_a_bucket_changes_nothing(rng, filter):
    image, unary = photo(rng), energies(rng)
    inside = np.pad(everywhere(image), ((0, 11), (0, 6)))
    image_padded = np.pad(image, ((0, 11), (0, 6), (0, 0)), constant_values=77)
    unary_padded = np.pad(unary, ((0, 11), (0, 6), (0, 0)), constant_values=-3)
    found = jitted_field(filter)(image_padded, unary_padded, inside)
    np.testing.assert_allclose(
        found[:21, :30], jitted_field(filter)(image, unary, everywhere(image)), atol=1e-5
    )


@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.slow
def test_photos_of_a_bucket_do_not_meet(rng, filter):
    images, unaries = np.stack([photo(rng), photo(rng)]), np.stack([energies(rng), energies(rng)])
    inside = np.stack([everywhere(images[0]), everywhere(images[0])])
    inside[1, 15:] = False
    together = compilation.jit(jax.vmap(field(filter)))(images, unaries, inside)
    for row in range(2):
        alone = jitted_field(filter)(images[row], unaries[row], inside[row])
        np.testing.assert_allclose(together[row][inside[row]], alone[inside[row]], atol=1e-5)


@pytest.mark.slow
def test_in_a_photo_of_one_colour_both_kernels_are_of_position(rng):
    """The colours drop out: the bilateral kernel is a Gaussian of its sxy."""
    image, unary = np.full((21, 30, 3), 90, np.float32), energies(rng)
    narrow = {
        "iterations": 2,
        "gaussian_sxy": 2.0,
        "gaussian_weight": 0.0,
        "bilateral_sxy": 3.0,
        "bilateral_srgb": 5.0,
        "bilateral_weight": 4.0,
    }
    moved = narrow | {"gaussian_sxy": 3.0, "gaussian_weight": 4.0, "bilateral_weight": 0.0}
    by_bilateral = field("exact", **narrow)(image, unary, everywhere(image))
    by_gaussian = field("exact", **moved)(image, unary, everywhere(image))
    np.testing.assert_allclose(by_bilateral, by_gaussian, atol=1e-5)
    # the lattice is no exact Gaussian; of two lattices of one Gaussian, that of five dimensions
    # sees it from another side
    lattice = [
        field("lattice", **options)(image, unary, everywhere(image)) for options in (narrow, moved)
    ]
    for found in lattice:
        assert np.abs(found - by_gaussian).mean() < 0.02
        assert (found.argmax(-1) == by_gaussian.argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_what_is_outside_does_not_matter_even_if_it_is_no_number(rng, filter):
    image, unary, inside = photo(rng), energies(rng), everywhere(photo(rng))
    inside[:, 20:] = False
    wanted = jitted_field(filter)(image, unary, inside)
    image[3, 25], unary[7, 22] = np.nan, np.nan
    np.testing.assert_array_equal(
        jitted_field(filter)(image, unary, inside)[:, :20], wanted[:, :20]
    )


def test_a_saliency_of_one_and_a_rounding_error_is_one(rng):
    image, probability = photo(rng), np.ones((21, 30), np.float32)
    wanted = jitted("saliency")(image, probability, everywhere(image))
    found = jitted("saliency")(image, np.nextafter(probability, 2), everywhere(image))
    np.testing.assert_array_equal(found, wanted)
    assert np.isfinite(wanted).all()


@pytest.mark.slow
def test_no_iterations_leave_the_energies(rng):
    image, unary = photo(rng), energies(rng)
    found = field("lattice", iterations=0)(image, unary, everywhere(image))
    np.testing.assert_allclose(found, jax.nn.softmax(-unary), atol=1e-6)


@pytest.mark.parametrize(("spread", "spare"), [(0.1, 5), (4.0, 0), (120.0, None)])
@pytest.mark.slow
def test_the_lattice_has_room_for_all_vertices(rng, spread, spare, monkeypatch):
    """From few vertices to nearly one a pixel: with room for just as many, some more, all."""
    monkeypatch.setattr(crf, "_LEAST_CAPACITY", 1)
    image = (127 + rng.uniform(-spread, spread, (40, 41, 3))).astype(np.float32)
    unary = energies(rng, 40, 41)
    changes = {"bilateral_srgb": 1.0, "iterations": 1}
    limits = [40 / 83, 39 / 83, 255.0, 255.0, 255.0]
    count = int(
        permutohedral.find_vertices(
            crf._features(jnp.asarray(image), 83.0, 1.0), np.ones(image[..., 0].size, bool), limits
        ).count
    )
    shares = (
        () if spare is None else ((count - 1.5) / (40 * 41), (count + spare - 0.5) / (40 * 41))
    )  # one too small, and this one
    monkeypatch.setattr(crf, "_VERTICES_A_PIXEL", shares)
    found = np.asarray(
        compilation.jit(field("lattice", **changes))(image, unary, everywhere(image))
    )
    np.testing.assert_allclose(
        found, lattice_twin(image, unary, OPTIONS["segmentation"] | changes), atol=2e-5
    )


def lattice_twin(image, unary, options):
    """One iteration, vertices in dictionaries."""
    filters = []
    for sxy, srgb in (
        (options["gaussian_sxy"], None),
        (options["bilateral_sxy"], options["bilateral_srgb"]),
    ):
        points = np.asarray(crf._features(jnp.asarray(image), sxy, srgb))
        vertices, weights = dictionary_lattice(points)
        filters.append(functools.partial(dictionary_blur, vertices, weights))
    labels = unary.shape[-1]
    energy = unary.reshape(-1, labels).astype(np.float64)
    state = np.asarray(jax.nn.softmax(-energy))
    messages = 0
    for weight, apply in zip(
        (options["gaussian_weight"], options["bilateral_weight"]), filters, strict=True
    ):
        norm = 1 / np.sqrt(apply(np.ones((len(energy), 1))) + 1e-20)
        messages = messages + weight * norm * apply(norm * state)
    return np.asarray(jax.nn.softmax(messages - energy)).reshape(unary.shape)


def dictionary_lattice(points):
    """Vertices (tuples) and weights of each point, by a search instead of ranks."""
    _, d = points.shape
    basis = np.zeros((d + 1, d))
    for j in range(d):
        basis[: j + 1, j], basis[j + 1, j] = 1, -(j + 1)
    scale = np.sqrt(2 / 3) * (d + 1) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))
    elevated = (points * scale) @ basis.T
    vertices, weights = [], []
    for point in elevated:
        nearest = np.round(point / (d + 1)) * (d + 1)
        excess = int(nearest.sum() / (d + 1))
        order = np.argsort(-(point - nearest), kind="stable")
        if excess > 0:
            nearest[order[d + 1 - excess :]] -= d + 1
        elif excess < 0:
            nearest[order[:-excess]] += d + 1
        offset = point - nearest
        order = np.argsort(-offset, kind="stable")
        ordered = offset[order] / (d + 1)
        corners = []
        for corner in range(d + 1):
            vertex = nearest + corner
            vertex[order[d + 1 - corner :]] -= d + 1
            corners.append(tuple(int(c) for c in vertex))
        vertices.append(corners)
        weights.append(
            [1 - ordered[0] + ordered[d]]
            + [ordered[d - k] - ordered[d - k + 1] for k in range(1, d + 1)]
        )
    return vertices, np.array(weights)


def dictionary_blur(vertices, weights, values):
    d = len(vertices[0]) - 1
    state = {}
    for corners, shares, value in zip(vertices, weights, values, strict=True):
        for vertex, share in zip(corners, shares, strict=True):
            state[vertex] = state.get(vertex, 0) + share * value
    for axis in range(d + 1):
        step = np.full(d + 1, -1)
        step[axis] = d
        ends = {
            vertex: (tuple(np.add(vertex, step)), tuple(np.subtract(vertex, step)))
            for vertex in state
        }
        state = {
            vertex: value + 0.5 * sum(state.get(end, 0) for end in ends[vertex])
            for vertex, value in state.items()
        }
    seen = [
        sum(s * state[v] for v, s in zip(corners, shares, strict=True))
        for corners, shares in zip(vertices, weights, strict=True)
    ]
    return np.stack(seen) / (1 + 2.0**-d)


@pytest.mark.parametrize(
    "limits", [(30.0,), (9.0, 6.0), (2.0, 2.0, 2.0), (1.0, 1.0, 8.0, 8.0, 8.0)]
)
@pytest.mark.slow
def test_vertices_are_those_of_the_lattice(rng, limits):
    points = (rng.random((900, len(limits))) * limits).astype(np.float32)
    inside = rng.random(900) < 0.8
    found = permutohedral.find_vertices(jnp.asarray(points), jnp.asarray(inside), limits)
    wanted, weights = dictionary_lattice(points[inside].astype(np.float64))
    pairs = dict(
        zip(
            np.asarray(found.ids)[inside].reshape(-1).tolist(),
            [v for corners in wanted for v in corners],
            strict=True,
        )
    )
    assert (
        len(pairs)
        == int(found.count)
        == len(set(pairs.values()))
        <= permutohedral.most_vertices(900, limits)
    )
    assert set(pairs) == set(range(int(found.count)))
    assert [[pairs[i] for i in row] for row in np.asarray(found.ids)[inside].tolist()] == wanted
    np.testing.assert_allclose(np.asarray(found.weights)[inside], weights, atol=2e-5)
    assert (np.asarray(found.ids)[~inside] == -1).all()
    lattice = permutohedral.with_capacity(found, int(found.count) + 5)
    values = rng.random((900, 3)).astype(np.float32)
    np.testing.assert_allclose(
        permutohedral.blur(lattice, jnp.asarray(values))[inside],
        dictionary_blur(wanted, weights, values[inside]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_features_beyond_the_lattice_are_refused():
    with pytest.raises(ValueError, match="do not fit the lattice"):
        permutohedral.find_vertices(jnp.zeros((4, 2)), jnp.ones(4, bool), (1e10, 1.0))
