"""Prediction: arrays from Python, files from the command line, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import launch, tiny_config
from PIL import Image

import auxseg_jax
from auxseg_jax.api import predict_files
from auxseg_jax.data import shapes
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.files import images
from auxseg_jax.inference import crf
from auxseg_jax.models import auxsegnet
from auxseg_jax.models.layers import resize_bilinear
from auxseg_jax.pixel_labels import palette
from auxseg_jax.pseudo import labelled
from auxseg_jax.report.results import Results
from auxseg_jax.runs import build
from auxseg_jax.training import checkpoint


@pytest.mark.slow
def test_predict(finished, tmp_path, rng):
    workdir, *_ = finished
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a", (40, 33)), ("b", (25, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / f"{name}.jpg")
    (photos / "c.jpg").write_bytes(b"no photo")
    show = "--show=overlay,saliency,cam,affinity"
    process = launch(
        "predict",
        "--post",
        show,
        "--point=10,20",
        f"--workdir={workdir}",
        f"--input={photos}/*.jpg",
        f"--output={tmp_path / 'masks'}",
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "2 masks in" in output, output
    assert "1 photos could not be read:" in output and "c.jpg: not a readable image" in output
    assert (tmp_path / "masks/classes.csv").read_text().splitlines()[:2] == [
        "index,class,colour",
        "0,background,#000000",
    ]
    for name, size in (("a", (40, 33)), ("b", (25, 60))):
        with Image.open(tmp_path / "masks" / f"{name}.png") as mask:
            assert mask.mode == "P" and mask.size == size[::-1]
        with Image.open(tmp_path / "masks/overlay" / f"{name}.jpg") as overlay:
            assert overlay.mode == "RGB" and overlay.size == size[::-1]
        for kind in ("saliency", "affinity"):
            with Image.open(tmp_path / "masks" / kind / f"{name}.png") as grey:
                assert grey.mode == "L" and grey.size == size[::-1]


@pytest.mark.parametrize("block_mib", [2048.0, 1e-4])
def test_what_predict_shows_is_what_the_network_says(finished, tmp_path, block_mib):
    workdir, _, config = finished
    y, x = np.mgrid[:32, :40]
    photo = np.stack([6 * x, 7 * y, 100 + 3 * (x - y)], -1).astype(
        np.uint8
    )  # smooth: a JPEG keeps it
    Image.fromarray(photo).save(tmp_path / "a.png")
    shutil.copytree(
        workdir,
        tmp_path / "run",
        ignore=shutil.ignore_patterns("checkpoints", "classifier", "cam", "val", "post", "pseudo"),
    )
    content = json.loads((workdir / "config.json").read_text())
    content["affinity"]["block_mib"] = block_mib
    (tmp_path / "run/config.json").write_text(json.dumps(content))
    predict_files(
        tmp_path / "run",
        [str(tmp_path / "a.png")],
        tmp_path / "masks",
        show=("overlay", "cam", "affinity"),
        point=(33, 5),
    )
    network = build.network(config, len(shapes.CLASSES) - 1)
    params = checkpoint.load_params(
        workdir / "stage_01/params",
        build.abstract_params(config, network),
        mesh_lib.make_mesh(data=1),
    )
    inside = np.ones((1, *photo.shape[:2]), bool)
    image = auxsegnet.normalize(network, photo[None], inside)
    outputs = network.apply({"params": params}, image)
    height, width = outputs["cam"].shape[1:3]
    row = (
        outputs["affinity"]
        .whole[0]
        .reshape(height, width, height, width)[5 * height // 32, 33 * width // 40]
    )
    found = images.read_plane(tmp_path / "masks/affinity/a.png")
    expected = (
        np.asarray(resize_bilinear((row / row.max())[None, ..., None], (32, 40)))[0, ..., 0] * 255
    )
    np.testing.assert_allclose(found, expected, atol=1)
    present = {
        shapes.CLASSES[k + 1] for k in np.flatnonzero(np.asarray(outputs["cls_logits"])[0] > 0)
    }
    assert {path.name.split(".")[1] for path in (tmp_path / "masks").glob("cam/a.*.png")} == present
    labels = images.read_plane(tmp_path / "masks/a.png")
    with Image.open(tmp_path / "masks/overlay/a.jpg") as overlay:
        drawn = np.asarray(overlay).astype(int)
    expected = np.where(labels[..., None] > 0, (photo.astype(int) + palette()[labels]) // 2, photo)
    assert np.abs(drawn - expected).mean() < 8


def test_predict_shows_only_what_there_is(finished, tmp_path):
    workdir, *_ = finished
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    for arguments, message in (
        (
            {"show": ("map",)},
            "there is no map to show; there are overlay, certainty, saliency",
        ),
        ({"show": ("affinity",)}, "give both, or neither"),
        ({"point": (1, 1)}, "give both, or neither"),
        (
            {"show": ("affinity",), "point": (20, 1)},
            "the point 20,1 is outside a photo; the smallest are 20 wide and 20 high",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            predict_files(workdir, [str(tmp_path / "a.png")], tmp_path / "masks", **arguments)
    assert not (tmp_path / "masks").exists()


def test_post_processing_gives_the_crf_the_photos_colours(finished, tmp_path, rng, monkeypatch):
    workdir, _, config = finished
    photo = rng.integers(0, 256, (32, 40, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    given = {}

    def red(image, probabilities, inside, options):
        given.update(options=options, probabilities=probabilities.shape, inside=inside.shape)
        return jax.nn.one_hot((image[..., 0] == 200).astype(int), probabilities.shape[-1])

    monkeypatch.setattr(crf, "segmentation", red)
    predict_files(workdir, [str(tmp_path / "a.png")], tmp_path / "masks", post=True)
    np.testing.assert_array_equal(images.read_plane(tmp_path / "masks/a.png"), photo[..., 0] == 200)
    assert given.pop("probabilities")[-1] == len(shapes.CLASSES) and len(given.pop("inside")) == 2
    assert given == {"options": build.crf_options(config, "segmentation")}


def test_predict_refuses_bad_input_before_it_writes(finished, tmp_path):
    workdir, *_ = finished
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "good.jpg")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "good.png")
    with pytest.raises(
        ValueError, match=r"good\.png and .*good\.jpg would both be written to good\.png"
    ):
        predict_files(workdir, [f"{tmp_path}/*.*"], tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
    with pytest.raises(
        ValueError, match=r"no photo can be read:\n  .*bad\.jpg: not a readable image"
    ):
        predict_files(workdir, [f"{tmp_path}/bad.jpg"], tmp_path / "masks")
    with pytest.raises(UserError, match="no file matches"):
        predict_files(workdir, [f"{tmp_path}/*.tif"], tmp_path / "masks")
    for photos in (f"{tmp_path}/good.jpg", []):
        with pytest.raises(UserError, match="expected a list of photos"):
            predict_files(workdir, photos, tmp_path / "masks")
    with pytest.raises(UserError, match="is a file; masks go into a folder"):
        predict_files(workdir, [f"{tmp_path}/good.jpg"], tmp_path / "bad.jpg")
    with pytest.raises(UserError, match="holds no trained stage"):
        predict_files(tmp_path, [f"{tmp_path}/good.jpg"], tmp_path / "masks")


def test_predict_does_not_overwrite_photos(finished, tmp_path):
    workdir, *_ = finished
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match="the masks would overwrite the photos"):
        predict_files(workdir, [f"{tmp_path}/*.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


def test_arrays_are_those_of_the_files(finished, tmp_path, rng):
    workdir, *_ = finished
    photos = [rng.integers(0, 256, size, np.uint8) for size in ((40, 33, 3), (25, 60, 3))]
    for name, photo in zip("ab", photos, strict=True):
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
    show = ("probabilities", "saliency", "cam", "affinity")
    predictor = auxseg_jax.load(workdir)
    assert predictor.classes == shapes.CLASSES and predictor.stage == "stage_01"
    # A path and an array may be mixed; the order is that of the photos.
    found = predictor.predict([photos[0], tmp_path / "b.png"], show=show, point=(5, 6))
    written = show[1:]
    predict_files(workdir, [f"{tmp_path}/*.png"], tmp_path / "masks", show=written, point=(5, 6))
    for name, photo, prediction in zip("ab", photos, found, strict=True):
        labels = images.read_plane(tmp_path / "masks" / f"{name}.png")
        np.testing.assert_array_equal(prediction.labels, labels)
        assert prediction.probabilities.shape == (*photo.shape[:2], len(shapes.CLASSES))
        np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(prediction.probabilities.argmax(-1), labels)
        for kind in ("saliency", "affinity"):
            grey = images.read_plane(tmp_path / "masks" / kind / f"{name}.png")
            np.testing.assert_allclose(255 * getattr(prediction, kind), grey, atol=0.51)
        files = {p.name.split(".")[1] for p in (tmp_path / "masks/cam").glob(f"{name}.*")}
        assert set(prediction.cams) == files


def test_photos_that_python_cannot_have_are_refused(finished, tmp_path):
    predictor = auxseg_jax.load(finished[0])
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    for photos, message in (
        ([tmp_path / "bad.jpg"], "not a readable image"),
        ([np.zeros((4, 4), np.uint8)], r"expected photos as uint8 \[H, W, 3\]"),
        ([3], "expected a path or a uint8 array, got int"),
        ([tmp_path / "bad.jpg", tmp_path / "no.jpg"], "(?s)2 faults.*no.jpg"),
        ("a.jpg", "expected a list of photos"),
    ):
        with pytest.raises(auxseg_jax.UserError, match=message):
            predictor.predict(photos)
    black = [np.zeros((20, 20, 3), np.uint8)]
    for options in ({"show": "saliency"}, {"show": ["affinity"], "point": (1.5, 0)}):
        with pytest.raises(auxseg_jax.UserError, match="expected"):
            predictor.predict(black, **options)


def labelled_folder(root, rng):
    """Twelve photos of two classes with saliency, two of them of 0.02 megapixels."""
    for kind in ("JPEGImages", "Saliency", "ImageSets/Segmentation"):
        (root / kind).mkdir(parents=True)
    names = [f"p{k}" for k in range(12)]
    for k, name in enumerate(names):
        size = (100, 200) if k < 2 else (32, 40)
        photo = rng.integers(90, 160, (*size, 3), np.uint8)
        object_ = np.zeros(size, np.uint8)
        object_[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 255
        photo[object_ > 0] = (220, 30, 30) if k % 2 else (30, 30, 220)
        Image.fromarray(photo).save(root / f"JPEGImages/{name}.{'JPG' if k == 3 else 'jpg'}")
        images.write_grey_png(root / f"Saliency/{name}.png", object_)
    (root / "classes.txt").write_text("background\ndisc\ncat\n")
    rows = [f"{name} {'cat' if k % 2 else 'disc'}" for k, name in enumerate(names)]
    (root / "image_labels.txt").write_text("\n".join(rows))
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[:8]))
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names[8:]))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(folder, workdir, results, config) of a run on own photos without masks."""
    base = tmp_path_factory.mktemp("own")
    labelled_folder(base / "photos", np.random.default_rng(0))
    config = tiny_config(base, stages__count=1, stages__epochs=1, classifier__epochs=1)
    config.data = {
        "builder": "voc_folder",
        "root": str(base / "photos"),
        "saliency": "Saliency",
        "labels": "image_labels.txt",
        "train_split": "train",
        "val_split": "val",
        "cache_dir": str(base / "data"),
        "megapixels": 0.005,
    }
    return base / "photos", base / "run", auxseg_jax.train(config, base / "run"), config


def test_a_run_without_masks_ends_in_a_review(own):
    _, workdir, results, _ = own
    assert results.final is None and results.review.photos == 8
    assert 0 <= results.review.agreement <= 100 and 0 <= results.review.saliency_iou <= 100
    assert len(results.review.least_certain) == 5
    with Image.open(workdir / "review/sheet.jpg") as sheet:
        assert sheet.width > 1200 and sheet.height > 4 * 100
    again = Results.from_json(json.loads((workdir / "results.json").read_text()))
    assert again.review == results.review
    page = (workdir / "report.html").read_text()
    assert "Quality is unmeasured" in page and 'id="confusion"' not in page
    places = [page.index(f"<h3>{name}:") for name in results.review.least_certain]
    assert places == sorted(places) and "agree least" in page
    assert not (workdir / "oracle.jsonl").exists() and not (workdir / "truth").exists()


def test_a_finished_run_knows_its_data_by_their_content(own, tmp_path, capsys):
    folder, workdir, results, config = own
    shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.copytree(workdir, tmp_path / "run")
    content = json.loads((tmp_path / "run/config.json").read_text())
    content["data"]["root"] = str(tmp_path / "elsewhere")
    (tmp_path / "run/config.json").write_text(json.dumps(content))
    config = config.copy_and_resolve_references()
    config.data.root = str(tmp_path / "elsewhere")
    assert auxseg_jax.train(config, tmp_path / "run").review == results.review
    labels = tmp_path / "elsewhere/image_labels.txt"
    labels.write_text(labels.read_text().replace("p2 disc", "p2 cat"))
    with pytest.raises(UserError, match=r"the data of .* have changed since it was begun"):
        auxseg_jax.train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "elsewhere")
    assert auxseg_jax.train(config, tmp_path / "run").review == results.review
    assert "were not compared, for they are gone" in capsys.readouterr().err


def test_labelled_photos_show_their_own_classes(own, tmp_path, rng):
    folder, workdir, *_ = own
    other = tmp_path / "other.jpg"
    Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(other)
    count, faults = predict_files(
        workdir, [str(folder / "JPEGImages"), str(other)], tmp_path / "masks", show=("overlay",)
    )
    assert count == 13 and not faults
    rows = (folder / "image_labels.txt").read_text().splitlines()
    labels = dict(row.split() for row in rows)
    index = {"disc": 1, "cat": 2}
    seen = set()
    for name, label in labels.items():
        mask = images.read_plane(tmp_path / f"masks/{name}.png")
        assert set(np.unique(mask)) <= {0, index[label]}, name
        assert mask.shape == ((100, 200) if name in ("p0", "p1") else (32, 40))
        seen |= set(np.unique(mask))
        truth = images.read_plane(folder / f"Saliency/{name}.png") > 127
        assert ((mask > 0) & truth).sum() > 0.5 * truth.sum(), name
    assert seen == {0, 1, 2}
    predict_files(
        workdir, [str(folder / "JPEGImages/p5.jpg")], tmp_path / "plain", use_labels=False
    )
    predict_files(workdir, [str(folder / "JPEGImages/p5.jpg")], tmp_path / "alone")
    alone = images.read_plane(tmp_path / "alone/p5.png")
    np.testing.assert_array_equal(alone, images.read_plane(tmp_path / "masks/p5.png"))
    assert (images.read_plane(tmp_path / "plain/p5.png") != alone).any()


def test_inputs_are_files_folders_and_patterns_in_any_case(own, tmp_path, capsys):
    folder, workdir, *_ = own
    strange = tmp_path / "photos [2024]"
    strange.mkdir()
    shutil.copy(folder / "JPEGImages/p4.jpg", strange / "a.JPG")
    shutil.copy(folder / "JPEGImages/p5.jpg", strange / "b[1].jpg")
    (strange / "notes.txt").write_text("no photo")
    for number, names in enumerate(([strange], [f"{strange}/*.jpg"], [f"{strange}/*"])):
        masks = tmp_path / f"masks{number}"
        faults = predict_files(workdir, list(map(str, names)), masks, use_labels=False)[1]
        assert {path.stem for path in masks.glob("*.png")} == {"a", "b[1]"}
        assert len(faults) == (number == 2)
    capsys.readouterr()
    (strange / "c.webp").write_bytes(b"")
    predict_files(workdir, [str(strange)], tmp_path / "masks0", use_labels=False)
    assert "left out, being neither .jpg, .jpeg nor .png: c.webp\n" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"is a folder without a photo .*; there is .*JPEGImages"):
        predict_files(workdir, [str(folder)], tmp_path / "none")


def test_what_somebody_else_wrote_is_not_overwritten(own, tmp_path):
    folder, workdir, *_ = own
    photo, masks = [str(folder / "JPEGImages/p4.jpg")], tmp_path / "masks"
    masks.mkdir()
    (masks / "p4.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds p4\.png, which is not of an earlier prediction"):
        predict_files(workdir, photo, masks)
    assert [path.name for path in masks.iterdir()] == ["p4.png"]
    predict_files(workdir, photo, masks, overwrite=True)
    predict_files(workdir, photo, masks)  # Now it is a folder of ours.
    (masks / "cam").mkdir()
    (masks / "cam/p5.cat.png").write_bytes(b"mine")
    other = [str(folder / "JPEGImages/p5.jpg")]
    with pytest.raises(UserError, match=r"holds cam/p5\.cat\.png"):
        predict_files(workdir, other, masks)
    (masks / "overlay").mkdir()
    shutil.copy(other[0], masks / "overlay")
    with pytest.raises(UserError, match="the masks would overwrite the photos"):
        predict_files(workdir, [str(masks / "overlay/p5.jpg")], masks, overwrite=True)
    with pytest.raises(UserError, match="masks would lie among them"):
        predict_files(workdir, photo, folder / "JPEGImages")


def test_combined_sources_keep_to_the_label():
    scores = np.full((1, 2, 2, 3), 1 / 3, np.float32)
    pseudo = np.array([[[1, 0], [255, 2]]], np.uint8)
    labels = np.array([[1.0, 0.0]], np.float32)
    found = np.asarray(labelled.combine(scores, {"labels": labels}, pseudo))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    assert (found[..., 2] == 0).all()
    np.testing.assert_allclose(found[0, 0, 0], [0.25, 0.75, 0], atol=1e-6)
    np.testing.assert_allclose(found[0, 0, 1], [0.75, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(found[0, 1, 0], [0.5, 0.5, 0], atol=1e-6)
    saliency = np.array([[[1.0, 0.0], [1.0, 0.0]]], np.float32)
    found = np.asarray(labelled.combine(scores, {"labels": labels, "saliency": saliency}, pseudo))
    np.testing.assert_allclose(found[0, 0, 0], [0.5 / 3, 2.5 / 3, 0], atol=1e-5)
    none = np.asarray(
        labelled.combine(scores, {"labels": 0 * labels, "saliency": saliency}, pseudo)
    )
    assert (none.argmax(-1) == 0).all() and np.isfinite(none).all()
