"""What a report shows of affinities."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from auxseg_jax.grid import Grid
from auxseg_jax.models.pairwise import Pairwise
from auxseg_jax.pseudo import explain
from auxseg_jax.runs import explained

HEIGHT, WIDTH = 3, 4
POSITIONS = HEIGHT * WIDTH


def maps_of(matrix, size=(HEIGHT, WIDTH), inside=None, **outputs):
    inside = np.ones((1, 2 * size[0], 2 * size[1]), bool) if inside is None else inside
    outputs = {"affinity": Pairwise.of(jnp.asarray(matrix)[None]), **outputs}
    image, inside = jnp.zeros((*inside.shape, 3)), jnp.asarray(inside)
    maps = explain.affinity_maps(lambda *_: outputs, image, inside, window=0, grid=Grid(2, 0))
    return {name: np.asarray(value[0]) for name, value in maps.items()}


@pytest.mark.parametrize(
    "matrix, neighbours",
    [
        (np.eye(POSITIONS), 1),
        (np.full((POSITIONS, POSITIONS), 1 / POSITIONS), POSITIONS),
        (np.kron(np.eye(4), np.full((3, 3), 1 / 3)), 3),
    ],
)
def test_how_many_positions_a_position_looks_at(matrix, neighbours):
    maps = maps_of(matrix.astype(np.float32))
    assert maps["neighbours"] == pytest.approx([neighbours], rel=1e-5)
    assert maps["row_sums"] == pytest.approx([1])
    np.testing.assert_array_equal(maps["affinity"][0], 255 * (matrix > 0))


def test_levels_are_square_roots():
    row = np.zeros(POSITIONS, np.float32)
    row[:3] = 0.8, 0.2, -0.01
    maps = maps_of(np.tile(row, (POSITIONS, 1)))
    assert maps["affinity"][0, 5, :4].tolist() == [255, 128, 0, 0]


def test_large_grids_are_made_coarse():
    height, width = 40, 50  # Blocks of 3 x 3 cells.
    matrix = np.eye(height * width, dtype=np.float32)
    maps = maps_of(matrix, (height, width))
    rows, columns = maps["grid"]
    assert (rows, columns) == (14, 17) and maps["factor"] == 3
    assert maps["extent"].tolist() == [height, width]
    # A cell looks at itself, and so does the block that holds it.
    np.testing.assert_array_equal(maps["affinity"][0], 255 * np.eye(14 * 17))


def test_rows_of_a_coarse_grid_are_those_of_the_photo():
    """Its edge may lie before the middle of the last coarse cell."""
    height, width = 24, 32  # Blocks of 2 x 2 cells.
    matrix = np.eye(height * width, dtype=np.float32)
    inside = np.zeros((1, 2 * height, 2 * width), bool)
    inside[:, : 2 * 23, : 2 * 31] = True
    maps = maps_of(matrix, (height, width), inside)
    assert maps["factor"] == 2 and maps["extent"].tolist() == [23, 31]
    np.testing.assert_array_equal(maps["affinity"][0], 255 * np.eye(12 * 16))


def test_a_uniform_row_is_that_of_the_windows():
    image, inside = jnp.zeros((1, 3, 7, 3)), jnp.ones((1, 3, 7), bool)

    def outputs_of(image, inside):
        positions = image.shape[1] * image.shape[2]
        return {"affinity": Pairwise.of(jnp.full((len(image), positions, positions), 0.25))}

    for window in (0, 3):
        maps = explain.affinity_maps(outputs_of, image, inside, window=window, grid=Grid(1, 0))
        np.testing.assert_array_equal(maps["uniform"], maps["affinity"][:, 0])


def test_only_what_holds_the_photo_is_kept(tmp_path):
    inside = np.zeros((1, 2 * HEIGHT, 2 * WIDTH), bool)
    inside[:, :4, :6] = True
    maps = maps_of(np.eye(POSITIONS, dtype=np.float32), inside=inside)
    assert maps["extent"].tolist() == [2, 3]
    maps |= {"certainty": np.full((4, 6), 0.5, np.float32), "labels": np.zeros((4, 6), np.uint8)}
    explained.write(tmp_path, "a b", maps)
    kept = explained.read(tmp_path)["a b"]
    np.testing.assert_array_equal(kept["affinity"], 255 * np.eye(6)[None])
    assert kept["grid"].tolist() == [2, 3] and kept["certainty"].max() == 128
    assert kept["uniform"].shape == (6, 6) and (kept["uniform"] == 255).all()
    assert kept["extent"].tolist() == [2, 3] and "factor" not in kept
    assert explained.read(tmp_path, ["another"]) == {}


def test_figures_of_affinities(tmp_path):
    """None where no photo has a label; they are means over the others."""
    config = tiny_config(tmp_path)
    blocks = np.kron(np.eye(2), np.full((6, 6), 1 / 6)).astype(np.float32)
    one = maps_of(blocks) | {"parts": np.array([0.2, 0.6], np.float32)}
    one |= {name: np.stack([one[name][0]] * 3) for name in ("affinity", "neighbours", "row_sums")}
    one["extent"] = np.array([3.0, 4.0])
    photo = np.zeros((6, 8, 3), np.uint8)
    photo[3:] = 100
    labels = np.zeros((6, 8), np.uint8)
    labels[3:] = 1
    unlabelled = np.full((6, 8), 255, np.uint8)
    params = {"seg_gamma": np.float32(0.5), "seg_head": {}}
    both = {"a": one, "b": one}, {"a": photo, "b": photo}
    found = explained.score(*both, {"a": labels, "b": unlabelled}, params, config)
    assert list(found.figures) == ["fused", "segmentation", "saliency"] and found.photos == 2
    fused, saliency = found.figures["fused"], found.figures["saliency"]
    assert fused["neighbours"] == pytest.approx(6) and fused["part"] == 1
    assert saliency["part"] == pytest.approx(0.75) and found.weights == {"seg_gamma": 0.5}
    assert 0.5 < fused["same_label_uniform"] < fused["same_label"] <= 1 and fused["colour"] < 1
    nothing = explained.score(*both, {"a": unlabelled, "b": unlabelled}, params, config)
    assert nothing.figures["fused"]["same_label"] is None
    config.affinity.heads = 2
    assert explained.affinity_names(config, 3) == ["fused", "source 1", "source 2"]
    assert explained.score({"a": {}}, {}, {}, params, config) is None


def test_sources_are_shown_beside_the_fused_one(rng):
    queries, keys = (
        tuple(jnp.asarray(rng.normal(size=(1, POSITIONS, 5)), jnp.float32) for _ in range(2))
        for _ in range(2)
    )
    fused = Pairwise(queries, keys, None, None, None, 5)
    alone = [Pairwise((q,), (k,), None, None, None, 5) for q, k in zip(queries, keys, strict=True)]
    image, inside = jnp.zeros((1, HEIGHT, WIDTH, 3)), jnp.ones((1, HEIGHT, WIDTH), bool)

    def maps_of(**outputs):
        options = {"window": 0, "grid": Grid(1, 0)}
        return explain.affinity_maps(lambda *_: outputs, image, inside, **options)

    maps = maps_of(affinity=fused, unary=jnp.full((1, POSITIONS), 1 / POSITIONS))
    assert maps["affinity"].shape == (1, 3, POSITIONS, POSITIONS)
    assert (np.asarray(maps["unary"]) == 255).all()
    for k, source in enumerate(alone, 1):
        one = maps_of(affinity=source)
        np.testing.assert_array_equal(maps["affinity"][:, k], one["affinity"][:, 0])
    assert maps_of(cam=inside) == {}


def test_through_windows_a_position_looks_at_what_is_in_its_windows():
    image, inside = jnp.zeros((1, 3, 7, 3)), jnp.ones((1, 3, 7), bool)

    def outputs_of(image, inside):
        positions = image.shape[1] * image.shape[2]
        uniform = jnp.full((len(image), positions, positions), 1 / positions)
        return {"affinity": Pairwise.of(uniform)}

    maps = explain.affinity_maps(outputs_of, image, inside, window=3, grid=Grid(1, 0))
    assert maps["neighbours"] == pytest.approx(np.full((1, 1), 9.0))
    seen = np.asarray(maps["affinity"][0, 0]).reshape(3, 7, 3, 7) > 0
    for column in (0, 3, 6):  # Windows begin at 0, 2 and 4.
        at = seen[1, column].all(0).nonzero()[0]
        assert at.tolist() == {0: [0, 1, 2], 3: [2, 3, 4], 6: [4, 5, 6]}[column]
    assert seen[0, 2].all(0).nonzero()[0].tolist() == [0, 1, 2, 3, 4]
