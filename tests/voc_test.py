"""VOC 2012 with SBD, in folders and in archives."""

import shutil
import tarfile

import numpy as np
import pytest
import scipy.io
from conftest import faults_named, prepare_files
from PIL import Image

from auxseg_jax import api
from auxseg_jax.configs import voc as voc_config
from auxseg_jax.data import about, voc2012
from auxseg_jax.errors import UserError
from auxseg_jax.files import images

IDS = {
    "train": ["2007_000032", "2007_000039"],
    "val": ["2007_000033"],
    "sbd": ["2008_000002", "2007_000033", "2007_000039"],
}


@pytest.fixture
def voc(tmp_path, rng):
    """The official layout with the true file formats, 4 photos."""
    root = tmp_path / "voc"
    devkit, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    for folder in (
        *(
            devkit / kind
            for kind in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation")
        ),
        sbd / "cls",
        root / "Saliency",
    ):
        folder.mkdir(parents=True)
    for split in ("train", "val"):
        (devkit / "ImageSets/Segmentation" / f"{split}.txt").write_text(
            "\n".join(IDS[split]) + "\n"
        )
    (sbd / "train.txt").write_text("\n".join(IDS["sbd"][:2]) + "\n")
    (sbd / "val.txt").write_text(IDS["sbd"][2] + "\n")
    for name in sorted({name for names in IDS.values() for name in names}):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(
            devkit / "JPEGImages" / f"{name}.jpg"
        )
        entry = "<object><name>cat</name></object>"
        (devkit / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>{entry}</annotation>"
        )
        images.write_grey_png(
            root / "Saliency" / f"{name}.png", rng.integers(0, 256, (24, 32), np.uint8)
        )
        plane = rng.choice([0, 8], (24, 32)).astype(np.uint8)
        if name in IDS["train"] + IDS["val"]:
            images.write_label_png(devkit / "SegmentationClass" / f"{name}.png", plane)
        if name in IDS["sbd"]:
            scipy.io.savemat(
                sbd / "cls" / f"{name}.mat",
                {"GTcls": {"Segmentation": 8 - plane, "Boundaries": 0}},
                do_compression=True,
            )
    return root


def test_voc_with_sbd(voc, tmp_path):
    data = prepare_files("voc2012_wsss", voc, tmp_path, train="train_aug")
    assert "train_aug holds 3 photos, the official one 10582" in "".join(
        about.read(data.directory).remarks
    )
    assert data.classes == voc2012.CLASSES and data.num_classes == 20
    examples = {e["id"].decode(): e for e in data.photos("train_aug")}
    assert sorted(examples) == [
        "2007_000032",
        "2007_000039",
        "2008_000002",
    ]  # of SBD, what is not in val
    assert all(
        np.flatnonzero(e["labels"]).tolist() == [voc2012.CLASSES.index("cat") - 1]
        for e in examples.values()
    )
    assert "segmentation" not in examples["2008_000002"]
    found = dict(data.masks("train_aug", "score"))
    mat = scipy.io.loadmat(voc / "benchmark_RELEASE/dataset/cls/2008_000002.mat")["GTcls"][
        "Segmentation"
    ][0, 0]
    np.testing.assert_array_equal(found["2008_000002"], mat)
    png = images.read_plane(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000039.png")
    np.testing.assert_array_equal(found["2007_000039"], png)  # VOC's own goes before SBD's


def test_voc_from_its_archives(voc, tmp_path):
    archives = tmp_path / "archives"
    shutil.copytree(voc / "Saliency", archives / "Saliency")
    for name, mode, folder in (
        ("VOCtrainval_11-May-2012.tar", "w", "VOCdevkit"),
        ("benchmark.tgz", "w:gz", "benchmark_RELEASE"),
    ):
        with tarfile.open(archives / name, mode) as tar:
            tar.add(voc / folder, folder)
    packed_data = prepare_files("voc2012_wsss", archives, tmp_path, train="train_aug")
    unpacked = prepare_files("voc2012_wsss", voc, tmp_path, train="train_aug")
    for split in ("train_aug", "val"):
        assert sorted(e["image"] for e in packed_data.photos(split)) == sorted(
            e["image"] for e in unpacked.photos(split)
        )
    (archives / "benchmark.tgz").write_bytes((archives / "benchmark.tgz").read_bytes()[:500])
    with pytest.raises(UserError, match=r"benchmark.tgz cannot be unpacked"):
        prepare_files("voc2012_wsss", archives, tmp_path, train="train_aug")


def test_every_fault_of_voc_is_named_at_once(voc, tmp_path):
    devkit = voc / "VOCdevkit/VOC2012"
    (devkit / "JPEGImages/2007_000032.jpg").unlink()
    (devkit / "Annotations/2007_000033.xml").write_text(
        "<annotation><object><name>unicorn</name></object></annotation>"
    )
    (devkit / "SegmentationClass/2007_000033.png").unlink()
    (voc / "benchmark_RELEASE/dataset/cls/2007_000033.mat").unlink()
    (voc / "benchmark_RELEASE/dataset/cls/2008_000002.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with faults_named(
        "2007_000032: no photo JPEGImages/2007_000032.jpg",
        "Annotations/2007_000033.xml: 2007_000033 has the class 'unicorn'",
        "2007_000033: no mask SegmentationClass/2007_000033.png",
        "2008_000002: cls/2008_000002.mat cannot be read: not a class map of SBD",
    ):
        prepare_files("voc2012_wsss", voc, tmp_path, train="train_aug")


def test_sbd_does_not_stand_in_for_masks_of_voc(voc, tmp_path):
    (voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png").unlink()
    with pytest.raises(
        UserError, match=r"1 fault:\n  2007_000033: no mask SegmentationClass/2007_000033\.png"
    ):
        prepare_files("voc2012_wsss", voc, tmp_path)


def test_splits_of_voc(voc, tmp_path):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt").write_text("2008_000002\n")
    data = prepare_files("voc2012_wsss", voc, tmp_path, val="test")
    assert len(data.photos("test")) == 1 and not data.has_masks("test")
    with pytest.raises(ValueError, match="VOC's test photos have no labels"):
        prepare_files("voc2012_wsss", voc, tmp_path, train="test")
    with pytest.raises(UserError, match="2007_000032: is in split train_aug and in split train"):
        prepare_files("voc2012_wsss", voc, tmp_path, train="train_aug", val="train")
    with pytest.raises(ValueError, match=r"'val\.2' cannot be the name of a split"):
        prepare_files("voc2012_wsss", voc, tmp_path, val="val.2")


def test_masks_are_scored_without_what_training_needs(voc, tmp_path):
    config = voc_config.get_config("efficientnet_lite0")
    config.data.update({"root": str(voc), "cache_dir": str(tmp_path / "cache")})
    shutil.rmtree(voc / "benchmark_RELEASE")
    shutil.rmtree(voc / "Saliency")
    found = api.evaluate(config, voc / "VOCdevkit/VOC2012/SegmentationClass")
    assert found.split == "val" and found.score.miou == 100


@pytest.mark.parametrize(
    ("train", "missing", "message"),
    [
        ("train_aug", "benchmark_RELEASE", "train_aug needs SBD"),
        ("train", "VOCdevkit", "neither VOC"),
    ],
)
def test_what_voc_needs_is_named(voc, tmp_path, train, missing, message):
    shutil.rmtree(voc / missing)
    with pytest.raises(UserError, match=message):
        prepare_files("voc2012_wsss", voc, tmp_path, train=train)


def test_several_saliency_maps_are_averaged(voc, tmp_path):
    for name in sorted({name for names in IDS.values() for name in names}):
        images.write_grey_png(voc / "Other" / f"{name}.png", np.full((24, 32), 255, np.uint8))
    data = prepare_files("voc2012_wsss", voc, tmp_path, saliency="Saliency,Other")
    example = data.photos("train")[0]
    one = images.read_plane(voc / "Saliency" / f"{example['id'].decode()}.png").astype(float)
    np.testing.assert_array_equal(
        images.decode_plane(example["saliency"]), np.round((one + 255) / 2)
    )


def test_photos_of_other_colours_are_named(voc, tmp_path):
    folder = voc / "VOCdevkit/VOC2012/JPEGImages"
    Image.new("CMYK", (32, 24)).save(folder / "2007_000032.jpg")
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(folder / "2007_000039.jpg", "PNG")
    with pytest.raises(
        UserError,
        match=r"(?s)000032.jpg cannot be read: its colours are CMYK.*000039.jpg cannot be read",
    ):
        prepare_files("voc2012_wsss", voc, tmp_path)
