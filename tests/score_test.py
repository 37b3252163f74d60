"""Scoring of anybody's folders, and the archive for the server of VOC."""

import io
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from auxseg_jax import api
from auxseg_jax.cli import main
from auxseg_jax.configs import demo
from auxseg_jax.data import dataset, shapes
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import cams, metrics, voc_archive
from auxseg_jax.files import images, pickles, torch_file
from auxseg_jax.pixel_labels import palette

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = demo.get_config()
    config.data.update(
        {
            "sizes": ((24, 32), (32, 24)),
            "train_photos": 5,
            "val_photos": 4,
            "cache_dir": str(tmp_path_factory.mktemp("data")),
        }
    )
    return config


@pytest.fixture(scope="module")
def truths(config):
    data = dataset.prepare(**config.data)
    return {split: dict(data.masks(split, "score")) for split in ("train", "val")}


def test_label_pngs(config, truths, tmp_path, rng):
    for split in ("train", "val"):
        counts = 0
        for name, truth in truths[split].items():
            labels = np.where(
                rng.random(truth.shape) < 0.7, truth, rng.choice([0, 1, 255], truth.shape)
            ).astype(np.uint8)
            images.write_label_png(tmp_path / f"{name}.png", labels)
            counts = counts + metrics.confusion(labels, truth, 5)
        found = api.evaluate(config, tmp_path, None if split == "val" else split)
        expected = metrics.iou_scores(counts, shapes.CLASSES)
        score = found.score
        assert found.split == split and score.photos == len(truths[split])
        assert list(score.per_class) == list(shapes.CLASSES)
        for key in ("miou", "miou_255_as_miss", "precision", "recall"):
            assert getattr(score, key) == pytest.approx(getattr(expected, key))
    assert score.miou > score.miou_255_as_miss


def cam_of(truth, index, strength):
    return np.where(truth == index, strength, 0.1).astype(np.float32)


@pytest.mark.parametrize("form", ["psa", "irn", "npz", "npz keys"])
def test_cams(config, truths, tmp_path, form):
    """Classes count from 0 on disk; a CAM of 0.62 is there up to a threshold of 0.6."""
    for name, truth in truths["val"].items():
        present = [k for k in range(1, 5) if (truth == k).any()]
        maps = {k - 1: cam_of(truth, k, 0.62) for k in present}
        stack = {"keys": np.array(list(maps)), "high_res": np.stack(list(maps.values()))}
        if form == "psa":
            np.save(tmp_path / f"{name}.npy", maps, allow_pickle=True)
        elif form == "irn":
            np.save(tmp_path / f"{name}.npy", stack, allow_pickle=True)
        elif form == "npz":
            np.savez(tmp_path / f"{name}.npz", **{str(k): v for k, v in maps.items()})
        else:
            np.savez(tmp_path / f"{name}.npz", keys=stack["keys"], cam=stack["high_res"])
    sweep = api.evaluate(config, tmp_path, "val").score
    assert sweep.oracle and sweep.photos == len(truths["val"])
    assert sweep.best_miou == 100 == sweep.miou["0.6"]
    assert sweep.miou["0.65"] < 50 and sweep.miou["0.05"] < 100


class Tensor:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({0.5: np.zeros((4, 4))}, r"classes \[0\.5\] of 1 CAMs"),
        ({0: np.zeros((4, 4)), "0": np.zeros((4, 4))}, "of 2 CAMs"),
        ({0: np.full((4, 4), 255.0)}, "beyond 0..1"),
        ({0: np.full((4, 4), np.nan)}, "beyond 0..1"),
        ({7: np.zeros((4, 4))}, "classes 7 to 7; there are 4, counted from 0"),
        ({0: np.zeros(4)}, r"CAMs of shape \(4,\), the photo is \(4, 4\)"),
        ({0: np.zeros((4, 4)), 1: np.zeros((5, 4))}, "same shape"),
        ({"keys": [0], "cam": Tensor()}, "refused: the file asks for builtins.print"),
        ([1], "expected a dict"),
    ],
)
def test_what_is_no_cam(tmp_path, content, message, capsys):
    array = np.empty((), object)
    array[()] = content
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=rf"a\.npy: .*{message}"):
        cams.read(tmp_path / "a.npy", 4, (4, 4))
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [{}, {"keys": np.zeros(0, int), "high_res": np.zeros((0, 4, 4))}]
)
def test_a_photo_without_a_class_is_background(tmp_path, content):
    np.save(tmp_path / "a.npy", np.array(content, object), allow_pickle=True)
    classes, score = cams.read(tmp_path / "a.npy", 4, (5, 6))
    assert classes.shape == score.shape == (5, 6) and not classes.any() and not score.any()


def test_cams_of_torch_are_read_without_it():
    """tests/data/irn.npy was written by numpy and PyTorch 2.13, as IRN writes its CAMs."""
    classes, score = cams.read(DATA / "irn.npy", 4, (4, 3))
    planes = np.arange(24).reshape(2, 4, 3) / 24
    assert (classes == 3).all()
    np.testing.assert_allclose(score, 255 * planes[1], rtol=1e-6)
    found = pickles.read_npy((DATA / "irn.npy").read_bytes(), torch_file.IN_PICKLES)
    np.testing.assert_allclose(found["cam"], planes.reshape(2, 3, 4).transpose(0, 2, 1), rtol=1e-6)


def test_a_storage_that_is_none_is_refused(tmp_path):
    class Tensor:
        def __reduce__(self):
            return torch_file._Tensor, (Storage(), 0, [1], [1])

    class Storage:
        def __reduce__(self):
            return torch_file._read_storage, (
                b"".join(
                    pickle.dumps(v, protocol=2) for v in (torch_file._MAGIC, 1001, {}, {}, [])
                ),
            )

    ours = pickle.dumps(np.array({"keys": [0], "cam": Tensor()}, object), protocol=2)
    theirs = {
        b"cauxseg_jax.files.torch_file\n_Tensor\n": b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cauxseg_jax.files.torch_file\n_read_storage\n": b"ctorch.storage\n_load_from_bytes\n",
    }
    for name, replacement in theirs.items():
        assert name in ours
        ours = ours.replace(name, replacement)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    with pytest.raises(ValueError, match="refused: a storage without numbers"):
        pickles.read_npy(header.getvalue() + ours, torch_file.IN_PICKLES)


def test_lists_within_lists_end(tmp_path):
    content = [0.0]
    for _ in range(60):
        content = [content, content]
    np.save(tmp_path / "a.npy", np.array({0: content}, object), allow_pickle=True)
    with pytest.raises(ValueError, match="refused: lists within lists"):
        cams.read(tmp_path / "a.npy", 4, (4, 4))


def test_faults_are_named(config, truths, tmp_path):
    names = list(truths["val"])
    with pytest.raises(ValueError, match=r"4 of the 4 photos of val have no .png there"):
        api.evaluate(config, tmp_path, "val")
    for name in names:
        images.write_label_png(tmp_path / f"{name}.png", truths["val"][name])
    colours = np.zeros((24, 32, 3), np.uint8)
    colours[0, 0] = 9, 8, 7
    Image.fromarray(colours).save(tmp_path / f"{names[1]}.png")
    with pytest.raises(
        ValueError,
        match=rf"{names[1]}.png cannot be read as a label map: it is in colours",
    ):
        api.evaluate(config, tmp_path, "val")
    images.write_label_png(tmp_path / f"{names[1]}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match=rf"{names[1]}: prediction is \(2, 2\), truth"):
        api.evaluate(config, tmp_path, "val")


# ---- the archive for the server of VOC


@pytest.fixture
def predictions(tmp_path, rng):
    """Photos and masks of three ids, and the list."""
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    names = ["2008_000006", "2008_000011", "2008_000012"]
    (tmp_path / "test.txt").write_text("\n".join(names) + "\n")
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(
            tmp_path / "photos" / f"{name}.jpg"
        )
        images.write_label_png(
            tmp_path / "masks" / f"{name}.png", rng.integers(0, 21, (20, 30), np.uint8)
        )
    return names


def voc_archive_command(tmp_path, *arguments):
    common = [f"--photos={tmp_path / 'photos'}", f"--ids={tmp_path / 'test.txt'}", "--count=3"]
    main(["voc-archive", *map(str, arguments), *common])


def test_the_archive_is_what_the_server_wants(predictions, tmp_path, capsys):
    archive = tmp_path / "out/results.tar.gz"
    voc_archive_command(tmp_path, "--predictions", tmp_path / "masks", "--to", archive)
    voc_archive_command(tmp_path, "--check", archive)
    assert capsys.readouterr().out.count("3 masks, as the server wants them") == 2
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == [
            f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in predictions
        ]
        with Image.open(tar.extractfile(tar.getnames()[0])) as image:
            np.testing.assert_array_equal(
                np.asarray(image), images.read_plane(tmp_path / "masks" / f"{predictions[0]}.png")
            )


def test_faults_of_masks_for_the_server(predictions, tmp_path, capsys):
    one, two, three = (tmp_path / "masks" / f"{name}.png" for name in predictions)
    plane = np.full((20, 30), 255, np.uint8)
    image = Image.fromarray(plane)
    image.putpalette(palette()[::-1].tobytes())
    image.save(one)
    images.write_grey_png(two, plane)
    three.unlink()
    with pytest.raises(SystemExit):
        voc_archive_command(
            tmp_path,
            "--predictions",
            tmp_path / "masks",
            "--to",
            tmp_path / "results.tar.gz",
        )
    said = capsys.readouterr().err
    for expected in (
        "2008_000006: its palette is not VOC's",
        "2008_000006: labels up to 255",
        "2008_000011: it is PNG of mode L; the server wants an indexed PNG",
        "2008_000012: no 2008_000012.png",
    ):
        assert expected in said
    assert not (tmp_path / "results.tar.gz").exists()


def test_faults_of_an_archive(predictions, tmp_path):
    with tarfile.open(tmp_path / "wrong.tar.gz", "w:gz") as tar:
        for name, folder in zip(
            predictions[:2], ("results/VOC2012", voc_archive.FOLDER), strict=True
        ):
            images.write_label_png(tmp_path / "small.png", np.zeros((4, 5), np.uint8))
            tar.add(tmp_path / "small.png", f"{folder}/{name}.png")
        tar.add(tmp_path / "small.png", f"{voc_archive.FOLDER}/{predictions[1]}.png")
    with pytest.raises(UserError) as error:
        voc_archive.check(tmp_path / "wrong.tar.gz", tmp_path / "photos", predictions)
    for expected in (
        "results/VOC2012/2008_000006.png: does not belong there",
        "2008_000006: no",
        "2008_000011: it is 5x4, the photo 30x20",
        "comp6_test_cls/2008_000011.png: is there 2 times",
        "000012: no",
    ):
        assert expected in str(error.value)
    (tmp_path / "wrong.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be read"):
        voc_archive.check(tmp_path / "wrong.tar.gz", tmp_path / "photos", predictions)
