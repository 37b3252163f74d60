"""The affinity module against plain numpy, at 7 x 5 positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxseg_jax import trees
from auxseg_jax.models import affinity, fusion
from auxseg_jax.models.pairwise import Pairwise, attend, combine

HEIGHT, WIDTH, CHANNELS = 7, 5, 6
# float32 sums of at most 35 x 6 products of order 1
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def randomised(params, rng):
    """Zero-initialised biases would hide mistakes."""
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), jnp.float32), params)


def twin(params, features, *, pairwise, unary, whiten, scale, cosine, inside=None):
    p = {name: np.asarray(value, np.float64) for name, value in trees.flatten(params).items()}
    enhanced, affinities, attentions = [], [], []
    for b, one in enumerate(np.asarray(features, np.float64)):
        flat = one.reshape(-1, CHANNELS)
        keep = np.ones(len(flat), bool) if inside is None else inside[b].reshape(-1)
        value = flat @ p["g/kernel"] + p["g/bias"]
        gathered = np.zeros_like(flat)
        if pairwise:
            query, key = (
                flat @ p[f"{name}/kernel"] + p.get(f"{name}/bias", 0)
                for name in ("theta", "theta" if cosine else "phi")
            )
            if whiten:
                query, key = query - query[keep].mean(0), key - key[keep].mean(0)
            if cosine:
                unit = query / np.sqrt((query**2).sum(1, keepdims=True) + 1e-6)
                query, key = cosine * unit, unit
            matrix = np.zeros((len(flat), len(flat)))
            for i in range(len(flat)):
                row = np.array([query[i] @ key[j] for j in range(len(flat))]) / (
                    np.sqrt(CHANNELS) if scale else 1
                )
                matrix[i, keep] = softmax(row[keep])
            affinities.append(matrix)
            gathered += matrix @ value
        if unary:
            attention = np.zeros(len(flat))
            attention[keep] = softmax((flat @ p["m/kernel"] + p["m/bias"])[keep, 0])
            attentions.append(attention)
            gathered += np.ones((len(flat), 1)) * (attention @ value)
        enhanced.append((flat + gathered @ p["W/kernel"] + p["W/bias"]).reshape(one.shape))
    return np.array(enhanced), np.array(affinities), np.array(attentions)


@pytest.mark.parametrize("inside_given", [False, True])
@pytest.mark.parametrize(
    ("whiten", "scale", "cosine"),
    [
        (False, False, 0.0),
        (True, False, 0.0),
        (False, True, 0.0),
        (False, False, 3.0),
        (True, False, 10.0),
    ],
)
@pytest.mark.parametrize(("pairwise", "unary"), [(True, True), (True, False), (False, True)])
def test_task_affinity(rng, pairwise, unary, whiten, scale, cosine, inside_given):
    features = rng.normal(size=(2, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    inside = None
    if inside_given:
        inside = np.ones((2, HEIGHT, WIDTH), bool)
        inside[1, 4:], inside[1, :, 3:] = False, False
    switches = {"pairwise": pairwise, "unary": unary, "whiten": whiten, "scale": scale}
    switches["cosine"] = cosine
    module = affinity.TaskAffinity(**switches)
    params = randomised(module.init(jax.random.key(0), features)["params"], rng)
    enhanced, maps, attention = module.apply({"params": params}, features, inside)
    expected = twin(params, features, **switches, inside=inside)
    np.testing.assert_allclose(enhanced, expected[0], **TOLERANCE)
    matrix = maps[0].whole if maps else None
    for mine, theirs, switch in zip(
        (matrix, attention), expected[1:], (pairwise, unary), strict=True
    ):
        assert (mine is not None) == switch
        if switch:
            np.testing.assert_allclose(mine, theirs, **TOLERANCE)


def test_by_cosine_all_of_one_kind_look_at_all_of_it():
    """Whatever the length of their vectors."""
    kinds = np.eye(2)[[0, 0, 1, 1, 1, 0]] * np.array([1, 5, 2, 9, 1, 3])[:, None]
    features = jnp.asarray(kinds, jnp.float32).reshape(1, 2, 3, 2)
    module = affinity.TaskAffinity(cosine=10.0, unary=False)
    params = module.init(jax.random.key(0), features)["params"]
    params["theta"] = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    matrix = module.apply({"params": params}, features)[1][0].whole[0]
    same = (kinds @ kinds.T > 0) / 3
    np.testing.assert_allclose(matrix, same, atol=1e-4)


def test_a_photo_of_one_colour_trains_no_rounding_errors(rng):
    """Whitened, its vectors are nothing else. One cell that differs a little does no harm."""
    flat = jnp.full((1, HEIGHT, WIDTH, CHANNELS), 3.3) + 1e-6 * rng.normal(size=(HEIGHT, WIDTH, 1))
    module = affinity.TaskAffinity(cosine=10.0, whiten=True, unary=False)
    params = module.init(jax.random.key(0), flat)["params"]
    weights = jnp.asarray(rng.normal(size=(HEIGHT * WIDTH, HEIGHT * WIDTH)), jnp.float32)

    def total(params):
        return (module.apply({"params": params}, flat)[1][0].whole * weights).sum()

    value, gradient = jax.value_and_grad(total)(params)
    np.testing.assert_allclose(value, weights.mean(1).sum(), rtol=0.01)
    assert max(abs(g).max() for g in jax.tree.leaves(gradient)) < 1


def test_no_affinity_leaves_the_features_alone(rng):
    features = rng.normal(size=(1, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    module = affinity.TaskAffinity(pairwise=False, unary=False)
    variables = module.init(jax.random.key(0), features)
    assert not variables
    np.testing.assert_array_equal(module.apply(variables, features)[0], features)


def test_cross_task_fusion(rng):
    maps = [softmax(rng.normal(size=(1, 9, 8))).astype(np.float32) for _ in range(2)]
    module = fusion.CrossTaskFusion()
    params = randomised(module.init(jax.random.key(0))["params"], rng)
    params["conv_3x3"]["kernel"] *= 10  # the maps are small: make the gate depend on them
    weights = module.apply({"params": params})
    found = fusion.fuse(maps, weights)
    k3, k1, bias = (
        np.asarray(params[a][b], np.float64)
        for a, b in (("conv_3x3", "kernel"), ("conv_1x1", "kernel"), ("conv_1x1", "bias"))
    )
    stacked = np.stack([m[0] for m in maps], -1)
    padded = np.pad(stacked, ((1, 1), (1, 1), (0, 0)))
    expected = np.zeros(stacked.shape[:2])
    for i in range(stacked.shape[0]):
        for j in range(stacked.shape[1]):
            hidden = np.maximum(np.einsum("abi,abio->o", padded[i : i + 3, j : j + 3], k3), 0)
            gate = softmax(hidden @ k1[0, 0] + bias)
            expected[i, j] = gate @ stacked[i, j]
    assert np.ptp(expected.sum(1)) > 1e-3  # rows no longer sum to one value
    np.testing.assert_allclose(found[0], expected, **TOLERANCE)
    with_halo = fusion.fuse([np.pad(m, ((0, 0), (1, 1), (0, 0))) for m in maps], weights, True)
    np.testing.assert_allclose(with_halo[0], expected, **TOLERANCE)


@pytest.mark.parametrize("block", [1, 4, 34, 35])
@pytest.mark.parametrize(("fused", "normalized"), [(True, False), (True, True), (False, False)])
@pytest.mark.slow
def test_blocks_of_rows_are_the_whole(rng, block, fused, normalized):
    """Values and gradients."""
    positions = HEIGHT * WIDTH
    inside = np.ones((2, 1, positions), bool)
    inside[1, :, 29:] = False
    sides = rng.normal(size=(2 if fused else 1, 2, 2, positions, CHANNELS)).astype(np.float32)
    weights = fusion.FusionWeights(
        *(rng.normal(0, 5, shape).astype(np.float32) for shape in ((3, 3, 2, 2), (2, 2), (2,)))
    )
    state = rng.random((2, positions, 3)).astype(np.float32)

    def moved(sides, weights, state, block):
        wholes = [None if block else attend(query, key, inside) for query, key in sides]
        tasks = [
            Pairwise((q,), (k,), inside, None, w, block or positions)
            for (q, k), w in zip(sides, wholes, strict=True)
        ]
        together = combine(tasks, weights).replace(block=block or positions) if fused else tasks[0]
        together = together.normalize_rows() if normalized else together
        assert (together.whole is None) == bool(block)
        result = together.map_rows(lambda rows: rows @ state)
        return (result**2).sum(), result

    found, wanted = (
        jax.jit(jax.value_and_grad(moved, (0, 1, 2), has_aux=True), static_argnums=3)(
            sides, weights, state, b
        )
        for b in (block, None)
    )
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pairwise", "unary"), [(True, True), (True, False), (False, True)])
def test_refine(rng, pairwise, unary):
    prediction = rng.normal(size=(2, HEIGHT, WIDTH, 3)).astype(np.float32)
    positions = HEIGHT * WIDTH
    matrix = rng.random((2, positions, positions)).astype(np.float32) if pairwise else None
    attention = rng.random((2, positions)).astype(np.float32) if unary else None
    given = None if matrix is None else Pairwise.of(matrix)
    found = affinity.refine(
        [prediction[..., :2], prediction[..., 2:]], given, attention, [0.7, 0.2]
    )
    assert [p.shape[-1] for p in found] == [2, 1]
    for b in range(2):
        flat = prediction[b].reshape(positions, 3).astype(np.float64)
        expected = matrix[b] @ flat if pairwise else flat.copy()
        if unary:
            expected += np.array([0.7, 0.7, 0.2]) * np.sum(
                [attention[b, j] * flat[j] for j in range(positions)], 0
            )
        np.testing.assert_allclose(
            np.concatenate(found, -1)[b].reshape(positions, 3), expected, rtol=2e-5, atol=2e-5
        )


def test_normalize_rows(rng):
    matrix = Pairwise.of(jnp.asarray(rng.random((2, 6, 6)), jnp.float32))
    np.testing.assert_allclose(matrix.normalize_rows().whole.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(("scale", "cosine"), [(False, 0.0), (True, 0.0), (False, 4.0)])
def test_each_head_has_its_share_of_the_channels(rng, scale, cosine):
    features = rng.normal(size=(2, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    module = affinity.TaskAffinity(unary=False, scale=scale, cosine=cosine, heads=2)
    params = randomised(module.init(jax.random.key(0), features)["params"], rng)
    enhanced, maps, _ = module.apply({"params": params}, features)
    flat = features.reshape(2, -1, CHANNELS).astype(np.float64)
    query, key, value = (
        flat @ np.asarray(params[name]["kernel"], np.float64) + params[name]["bias"]
        for name in ("theta", "theta" if cosine else "phi", "g")
    )
    gathered = []
    for head, part in zip(maps, (slice(0, 3), slice(3, 6)), strict=True):
        logits = np.einsum("bid,bjd->bij", query[..., part], key[..., part])
        if cosine:
            length = np.sqrt((query[..., part] ** 2).sum(-1) + 1e-6)
            logits *= cosine / (length[:, :, None] * length[:, None])
        matrix = softmax(logits / (np.sqrt(3) if scale else 1))
        np.testing.assert_allclose(head.whole, matrix, **TOLERANCE)
        gathered.append(matrix @ value[..., part])
    out = np.concatenate(gathered, -1) @ params["W"]["kernel"] + params["W"]["bias"]
    np.testing.assert_allclose(enhanced, (flat + out).reshape(features.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [4, HEIGHT * WIDTH])
@pytest.mark.parametrize("fused", [True, False])
def test_the_sources_shares_add_up_to_a_row(rng, block, fused):
    positions = HEIGHT * WIDTH
    sides = rng.normal(size=(3, 2, 1, positions, CHANNELS)).astype(np.float32)
    shapes = ((3, 3, 3, 3), (3, 3), (3,))
    weights = fusion.FusionWeights(*(rng.normal(0, 5, s).astype(np.float32) for s in shapes))
    sources = [
        Pairwise.from_attention(affinity.Attention(q, k), None, block)
        for q, k in jnp.asarray(sides)
    ]
    together = combine(sources, weights if fused else None)
    sums = together.source_sums()
    rows = together.map_rows(lambda rows: rows)
    np.testing.assert_allclose(sums.sum(-1), rows.sum(-1), atol=1e-5)
    if not fused:
        np.testing.assert_allclose(sums, 1 / 3, atol=1e-5)


def test_without_a_gate_several_sources_are_averaged(rng):
    positions, inside = HEIGHT * WIDTH, None
    sides = rng.normal(size=(3, 2, 1, positions, CHANNELS)).astype(np.float32)
    for block in (positions, 4):
        sources = [
            Pairwise.from_attention(affinity.Attention(q, k), inside, block)
            for q, k in jnp.asarray(sides)
        ]
        mean = combine(sources, None)
        expected = np.mean([softmax(np.einsum("bid,bjd->bij", q, k)) for q, k in sides], 0)
        np.testing.assert_allclose(mean.map_rows(lambda rows: rows), expected, atol=1e-5)
        np.testing.assert_allclose(mean.row(7), expected[:, 7], atol=1e-5)
