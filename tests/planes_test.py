"""Per-photo planes: one entry, and everything follows from it."""

import numpy as np
import pytest
from conftest import prepare_files
from PIL import Image

from auxseg_jax import errors
from auxseg_jax.data import dataset, listing, loader, planes, prepared_copy, sources
from auxseg_jax.errors import UserError
from auxseg_jax.files import images
from auxseg_jax.grid import Grid
from auxseg_jax.inference import passes

DEPTH = planes.Plane("depth", "Depth.", given=True)
SEGMENTS = planes.Plane("segments", "Segments.", planes.SEGMENTS, given=True, limit=3)


@pytest.fixture
def folder(tmp_path, rng):
    root = tmp_path / "photos"
    for kind in ("JPEGImages", "Saliency", "Depth", "Segments", "ImageSets/Segmentation"):
        (root / kind).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\n")
    (root / "image_labels.txt").write_text("a1 cat\na2 cat\nb1\n")
    for split, names in (("train", ["a1", "a2"]), ("val", ["b1"])):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
        for k, name in enumerate(names):
            size = (20 + k, 30)
            photo = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(photo).save(root / "JPEGImages" / f"{name}.jpg")
            for kind in ("Saliency", "Depth"):
                images.write_grey_png(
                    root / kind / f"{name}.png", rng.integers(0, 256, size, np.uint8)
                )
            segments = np.zeros((4, *size), bool)
            for index, side in enumerate((2, 9, 5, 7)):
                segments[index, :side, :side] = True
            np.savez(root / "Segments" / f"{name}.npz", segments=segments)
    return root


@pytest.fixture
def more_planes(monkeypatch):
    """The table with two more entries."""
    table = planes.PLANES | {"depth": DEPTH, "segments": SEGMENTS}
    given = tuple(plane for plane in table.values() if plane.given)
    for module in (planes, listing):
        monkeypatch.setattr(module, "PLANES", table)
    for module in (planes, listing, sources, prepared_copy, loader):
        monkeypatch.setattr(module, "GIVEN", given)
    for name in ("pictures", "content"):
        monkeypatch.setattr(f"auxseg_jax.data.{name}.PLANES", table)


def test_a_plane_goes_from_its_folder_to_the_function_of_a_pass(folder, tmp_path, more_planes):
    fields = {"saliency": "Saliency", "depth": "Depth", "segments": "Segments"}
    data = prepare_files("voc_folder", folder, tmp_path, labels="image_labels.txt", **fields)
    assert set(data.photos("train")[0]) == {"id", "image", "labels", "size", *fields}
    options = loader.BatchOptions(2, 1.0, 1, Grid(8, 0))
    reader = loader.PhotoReader(
        data.photos("train"), data.sizes("train"), options, loader.ReadOptions(1, 1)
    )
    (batch,) = reader
    assert batch.arrays["depth"].shape == (2, 24, 32)
    assert batch.arrays["segments"].shape == (2, 3, 24, 32)
    for row, name in enumerate(batch.ids):
        height, width = batch.sizes[row]
        depth = images.read_plane(folder / "Depth" / f"{name}.png")
        found = batch.arrays["depth"][row]
        np.testing.assert_allclose(255 * found[:height, :width], depth, atol=1e-4)
        assert not found[height:].any()
        # The three largest of four segments, the largest first.
        areas = batch.arrays["segments"][row].sum((1, 2)).tolist()
        assert areas == [81, 49, 25]
    from auxseg_jax.devices import mesh as mesh_lib

    mesh, seen = mesh_lib.make_mesh(data=1), {}
    function = passes.PhotoFunction(
        lambda params, arrays: {"depth": arrays["depth"] * params}, mesh
    )
    passes.run("test", function, np.float32(1), reader, seen.__setitem__, mesh)
    assert {key: value["depth"].shape for key, value in seen.items()} == {
        "a1": (20, 30),
        "a2": (21, 30),
    }


def test_faults_of_planes_are_named(folder, tmp_path, more_planes):
    np.savez(folder / "Segments/a1.npz", other=np.zeros(3))
    np.savez(folder / "Segments/a2.npz", segments=np.ones((1, 5, 6), bool))
    (folder / "Depth/b1.png").unlink()
    fields = {"saliency": "none", "depth": "Depth", "segments": "Segments"}
    with pytest.raises(UserError) as error:
        dataset.prepare(
            builder="voc_folder",
            train_split="train",
            val_split="val",
            cache_dir=str(tmp_path / "cache"),
            root=str(folder),
            labels="image_labels.txt",
            **fields,
        )
    for expected in (
        "a1: Segments/a1.npz cannot be read: expected a .npz with the array 'segments'",
        "a2: Segments/a2.npz is 6x5, the photo 30x21",
        "b1: no depth map Depth/b1.png",
    ):
        assert expected in str(error.value)
    with errors.collect() as faults:
        listing.find_planes(folder, {"segments": "Segments,Segments"}, ["a1"])
    assert faults == [
        "data.segments='Segments,Segments': only planes of greys can be of several folders"
    ]


def test_only_greys_are_averaged():
    ones, zeros = np.full((2, 3), 255, np.uint8), np.zeros((2, 3), np.uint8)
    np.testing.assert_array_equal(planes.PLANES["saliency"].merge([ones, zeros]), 128)


def test_a_stage_cannot_learn_segments():
    with pytest.raises(ValueError, match="a stage cannot learn segments"):
        planes.Plane("segments", "Segments.", planes.SEGMENTS, learned=True)


@pytest.mark.parametrize("count", [1, 8, 11, 70])
def test_segments_survive_their_storage(rng, count):
    plane = planes.Plane("segments", "Segments.", planes.SEGMENTS, given=True)
    segments = rng.random((count, 5, 7)) < 0.5
    loaded = plane.load(images.decode_plane(plane.store(segments)), (5, 7))
    order = np.argsort(-segments.sum((1, 2)), kind="stable")[:64]
    np.testing.assert_array_equal(loaded[: len(order)], segments[order])
    assert loaded.shape == (64, 5, 7) and not loaded[len(order) :].any()
