"""Builders of real data sets: label files, VOC 2012 + SBD, COCO 2014, painting, resuming."""

import contextlib
import importlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import scipy.io
from conftest import REPOSITORY
from PIL import Image, ImageDraw

from auxseg_jax import files, stages
from auxseg_jax.data import dataset, labels, masks, pictures, voc2012
from auxseg_jax.data.listing import DataError, Objects

NAMES = {"a1": ["cat"], "a2": ["dog", "traffic light"], "a3": []}
CLASSES = ["background", "cat", "dog", "traffic light"]


@contextlib.contextmanager
def faults_named(*expected):
    """The body raises DataError, which names all of them."""
    with pytest.raises(DataError) as error:
        yield
    for fault in expected:
        assert fault in str(error.value), f"{fault!r} is not in:\n{error.value}"


def read(path, classes=CLASSES):
    found, faults = labels.read(path)
    named = labels.names_of(found, classes, faults)
    assert not faults, faults
    return named


def npy(path, content, core="numpy._core", protocol=4):
    """Writes a dict as np.save does; older numpy names its module numpy.core."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(buffer.getvalue() + pickle.dumps(np.array(content, object), protocol).replace(b"numpy._core", core.encode()))


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_labels_are_read_as_they_were_written(tmp_path, ending):
    labels.write(tmp_path / f"labels.{ending}", NAMES)
    assert read(tmp_path / f"labels.{ending}") == NAMES


def test_a_blank_in_a_name_does_not_go_into_a_text_file(tmp_path):
    with pytest.raises(ValueError, match="'traffic light'"):
        labels.write(tmp_path / "image_labels.txt", NAMES)
    words = {**NAMES, "a2": ["dog"]}
    labels.write(tmp_path / "image_labels.txt", words)
    assert read(tmp_path / "image_labels.txt") == words


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na1.jpg,cat\na2.JPG,dog|traffic light\na3.png,\n",
        "image,label\na1,cat\na2,dog;\na2,traffic light;\na3,\n",
        "\ufeffid,cat,dog,traffic light\r\na1,1,0,0\r\na2,0,1,1\r\na3,0,0,0\r\n",
    ],
)
def test_tables_of_three_kinds(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text, newline="")
    assert read(tmp_path / "labels.csv") == NAMES


@pytest.mark.parametrize("text", ["", "id\na1\n", "id,x,y\na1,cat,dog\n"])
def test_a_table_that_is_none(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    _, faults = labels.read(tmp_path / "labels.csv")
    assert len(faults) == 1 and faults[0].startswith("labels.csv: ")


def test_annotations_of_voc(tmp_path):
    for name, objects in NAMES.items():
        entries = "".join(f"<object><name>{label}</name><difficult>1</difficult></object>" * 2 for label in objects)
        (tmp_path / f"{name}.xml").write_text(f"<annotation>{entries}</annotation>")
    assert read(tmp_path) == NAMES
    (tmp_path / "a4.xml").write_text("<annotation><object>")
    (tmp_path / "a5.xml").write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation/>')
    _, faults = labels.read(tmp_path)
    assert [fault.split(":")[0] for fault in faults] == ["a4.xml", "a5.xml"]


@pytest.mark.parametrize(("core", "protocol"), [("numpy.core", 2), ("numpy.core", 3), ("numpy._core", 3), ("numpy._core", 4)])
def test_pickled_vectors_are_read_without_their_pickle(tmp_path, core, protocol):
    ids = ["2007_000032", "2008_000001", "COCO_train2014_000000000009"]
    keys = [2007000032, "2008_000001", np.int64(9)]
    vectors = [np.array([1, 0, 0], np.float32), np.array([0, 1, 1], np.uint8), np.zeros(3, np.int64)]
    npy(tmp_path / "cls_labels.npy", dict(zip(keys, vectors, strict=True)), core, protocol)
    found, faults = labels.read(tmp_path / "cls_labels.npy")
    assert not faults
    assert labels.names_of(labels.with_ids(found, ids), CLASSES, faults) == dict(zip(ids, NAMES.values(), strict=True))


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_a_hostile_pickle_is_refused(tmp_path, capsys):
    for content in ({"a1": Hostile()}, {"a1": "text"}, ["a1"], {"a1": np.array(["text"])}):
        npy(tmp_path / "cls_labels.npy", content)
        _, faults = labels.read(tmp_path / "cls_labels.npy")
        assert faults and ("not a dict of label vectors" in faults[0] or "not a readable .npy" in faults[0])
    assert not capsys.readouterr().out


def test_an_id_is_itself_before_it_is_a_number():
    found = labels.with_ids({"1": ("x", ["a"]), "9": ("x", ["b"])}, ["1", "IMG_1", "COCO_9"])
    assert found == {"1": ("x", ["a"]), "COCO_9": ("x", ["b"])}
    with pytest.raises(ValueError, match="COCO_9 is there twice"):
        labels.with_ids({"COCO_9": ("x", []), "9": ("x", [])}, ["COCO_9"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"a1": ["cat"], "a1": ["dog"]}', "'a1' is there twice"),
        ("a.json", "[" * 100000, "recursion"),
        ("a.csv", 'id,classes\na1,"cat\na2,dog\n', "unexpected end of data"),
        ("a.json", '{"categories": [], "images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}', "one id"),
    ],
)
def test_what_may_be_meant_otherwise_is_a_fault(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    found, faults = labels.read(tmp_path / name)
    assert not found and len(faults) == 1 and message in faults[0]


def test_byte_order_marks_are_no_part_of_a_name(tmp_path):
    (tmp_path / "image_labels.txt").write_text("a1 cat\r\na3\r\n", encoding="utf-8-sig", newline="")
    assert read(tmp_path / "image_labels.txt") == {"a1": ["cat"], "a3": []}


def test_numbers_that_mean_two_photos():
    with pytest.raises(ValueError, match=r"the number 9 may mean a_9 or b_9"):
        labels.with_ids({"9": ("x", [])}, ["a_9", "b_9"])


def run(*arguments):
    command = [sys.executable, "-m", "auxseg_jax.data.labels", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)


def test_a_folder_of_photos_and_a_table_become_a_data_set(tmp_path, rng):
    root = tmp_path / "photos"
    (root / "JPEGImages").mkdir(parents=True)
    for k in range(10):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(root / "JPEGImages" / f"p{k}{'.jpg' if k % 2 else '.JPEG'}")
    (tmp_path / "labels.csv").write_text("id,classes\n" + "".join(f"p{k},{'cat' if k % 3 else 'dog'}\n" for k in range(10)))
    done = run("--from", tmp_path / "labels.csv", "--to", root, "--val-share", 0.3)
    assert done.returncode == 0, done.stderr
    data = dataset.prepare(
        builder="voc_folder",
        train_split="train",
        val_split="val",
        cache_dir=str(tmp_path / "cache"),
        root=str(root),
        saliency="none",
        labels="image_labels.txt",
    )
    assert data.classes == ("background", "cat", "dog")
    assert (len(data.photos("train")), len(data.photos("val"))) == (7, 3)
    assert set(data.photos("train")[0]) == {"id", "image", "labels", "size"}
    again = run("--from", tmp_path / "labels.csv", "--to", root, "--val-share", 0.3)
    assert again.stdout == "every list was there already\n"
    other = (tmp_path / "labels.csv").read_text().replace("p1,cat", "p1,dog")
    (tmp_path / "labels.csv").write_text(other)
    wrong = run("--from", tmp_path / "labels.csv", "--to", root, "--val-share", 0.3)
    assert wrong.returncode == 1 and "image_labels.txt is there already, and would be written otherwise" in wrong.stderr
    (tmp_path / "labels.csv").write_text("id,classes\np0,cat\nq,dog\n")
    wrong = run("--from", tmp_path / "labels.csv", "--to", root)
    assert wrong.returncode == 1 and "q: has labels, but there is no photo" in wrong.stderr


# ---- painting


def packed(counts):
    """Run lengths as COCO packs them into text (the inverse of `masks._unpack`)."""
    text = ""
    for k, count in enumerate(counts):
        value = count - counts[k - 2] if k > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def runs(plane):
    flat = np.concatenate([[0], plane.T.reshape(-1).astype(int)])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [flat.size - 1]])).tolist()


def test_run_lengths_of_both_forms(rng):
    for density in (0.0, 0.02, 0.5, 1.0):
        plane = rng.random((70, 90)) < density
        counts = runs(plane)
        for form in (counts, packed(counts)):
            np.testing.assert_array_equal(masks.region({"size": [70, 90], "counts": form}, (70, 90)), plane)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 4], "counts": [-4, 20]},
        {"size": [4, 4], "counts": "?"},
        {"size": [4, 4], "counts": "P"},
        {"counts": [16]},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": [None]},
        {"size": [4, 4], "counts": [16.0]},
        {"size": [4, 4], "counts": [10**400]},
        [[0, 0, 1, 1, 2]],
        [[0, 0, 1, float("nan"), 2, 2]],
        [[-1e308, -1e308, 1e308, 1e308, 0, 20]],
        [{"a": 1}],
        [7],
    ],
)
def test_broken_segmentations(segmentation):
    with pytest.raises(ValueError, match=r"run lengths|polygon"):
        masks.region(segmentation, (4, 4))


def test_polygons_cover_the_centres_inside(rng):
    """Against a plain ray casting for every pixel."""
    size = 17, 23
    for corners in (3, 4, 7, 12):
        points = rng.uniform(-4, 27, (corners, 2))
        twin = np.zeros(size, bool)
        for i in range(size[0]):
            for j in range(size[1]):
                for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
                    if (y0 <= i + 0.5) != (y1 <= i + 0.5) and j + 0.5 >= x0 + (i + 0.5 - y0) / (y1 - y0) * (x1 - x0):
                        twin[i, j] ^= True
        np.testing.assert_array_equal(masks.polygon_region(points.reshape(-1).tolist(), size), twin)


def test_smaller_objects_lie_over_larger():
    large, small = [[0, 0, 8, 0, 8, 8, 0, 8]], [[2, 2, 4, 2, 4, 4, 2, 4]]
    expected = np.ones((8, 8), np.uint8)
    expected[2:4, 2:4] = 2
    for parts in (((1, 64, large), (2, 4, small)), ((2, 4, small), (1, 64, large))):
        np.testing.assert_array_equal(masks.paint(Objects((8, 8), parts)), expected)


# ---- COCO


@pytest.fixture
def coco(tmp_path, rng):
    """The official layout: a grey photo, one without objects, a crowd, a hole in the official ids."""
    root = tmp_path / "coco"
    categories = [{"id": 1, "name": "person"}, {"id": 4, "name": "traffic light"}]
    (root / "annotations").mkdir(parents=True)
    (root / "Saliency").mkdir()
    for split, ids in {"train": (9, 25, 30), "val": (42, 73)}.items():
        (root / f"{split}2014").mkdir()
        images, annotations = [], []
        for k, key in enumerate(ids):
            name = f"COCO_{split}2014_{key:012d}"
            shape = (24, 32) if k == 1 else (24, 32, 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / f"{split}2014" / f"{name}.jpg")
            files.write_grey_png(root / "Saliency" / f"{name}.png", rng.integers(0, 256, (24, 32), np.uint8))
            images.append({"id": key, "file_name": f"{name}.jpg", "height": 24, "width": 32})
            if k == 0:
                annotations.append({"image_id": key, "category_id": 4, "iscrowd": 0, "area": 40.0, "segmentation": [[3, 3, 20, 3, 20, 15, 3, 15]]})
                crowd = np.zeros((24, 32), bool)
                crowd[5:20, 10:30] = True
                annotations.append(
                    {
                        "image_id": key,
                        "category_id": 1,
                        "iscrowd": 1,
                        "area": 300,
                        "segmentation": {"size": [24, 32], "counts": runs(crowd)},
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    return root


def prepare(builder, root, tmp_path, train="train", val="val", saliency="Saliency"):
    return dataset.prepare(builder=builder, train_split=train, val_split=val, cache_dir=str(tmp_path / "cache"), root=str(root), saliency=saliency)


def test_coco(coco, tmp_path, capsys):
    data = prepare("coco2014_wsss", coco, tmp_path)
    assert data.classes == ("background", "person", "traffic light")
    assert "train holds 3 photos, the official one 82783" in capsys.readouterr().err
    examples = {e["id"].decode(): e for e in data.photos("train")}
    assert {k[-2:]: e["labels"].tolist() for k, e in examples.items()} == {"09": [1, 1], "25": [0, 0], "30": [0, 0]}
    assert set(examples["COCO_train2014_000000000009"]) == {"id", "image", "labels", "saliency", "size"}
    expected = np.zeros((24, 32), np.uint8)
    expected[5:20, 10:30] = 1
    expected[3:15, 3:20] = 2
    found = dict(data.masks("train"))
    np.testing.assert_array_equal(found["COCO_train2014_000000000009"], expected)
    assert len(found) == 3 and not found["COCO_train2014_000000000030"].any()


def test_every_fault_of_coco_is_named_at_once(coco, tmp_path):
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"] += [
        {"id": 1, "file_name": "../x.jpg", "height": 2, "width": 2},
        {"id": 2, "height": 2, "width": 2},
        {"id": 3, "file_name": "COCO_train2014_000000000009.jpg", "height": 24, "width": 32},
        {"id": 4, "file_name": "absent.jpg", "height": 24, "width": 32},
    ]
    content["annotations"] += [
        {"image_id": 777, "category_id": 1, "area": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]},
        {"image_id": 25, "category_id": 2, "area": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]},
        {"image_id": 25, "category_id": 1, "segmentation": []},
        {"image_id": 30, "category_id": 1, "area": 1, "segmentation": {"size": [24, 32], "counts": [5]}},
    ]
    path.write_text(json.dumps(content))
    (coco / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(b"\xff\xd8 no photo")
    with faults_named(
        "instances_train2014.json: '../x.jpg' is not a plain file name",
        "instances_train2014.json: images[4] has no proper file_name",
        "instances_train2014.json: COCO_train2014_000000000009 stands there twice",
        "absent: no photo train2014/absent.jpg",
        "instances_train2014.json: objects of image 777, which is not among the images",
        "instances_train2014.json: an object of image 25 has the category 2, which has no name",
        "instances_train2014.json: annotations[4] has no proper area",
        "COCO_train2014_000000000030: its objects cannot be read: its run lengths sum to 5, the photo has 768 pixels",
        "COCO_val2014_000000000042: val2014/COCO_val2014_000000000042.jpg cannot be read",
    ):
        prepare("coco2014_wsss", coco, tmp_path)
    assert not list(tmp_path.glob("cache/*/*/photos"))


def test_what_coco_must_not_say_twice(coco, tmp_path):
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    content["images"][2]["height"] = True
    content["categories"] = [
        {"id": 1, "name": "human"},
        {"id": 4, "name": "traffic light"},
        {"id": 5, "name": "traffic light"},
        {"id": 6, "name": "../x"},
    ]
    content["annotations"][0]["area"] = float("nan")
    path.write_text(json.dumps(content))
    val = coco / "annotations" / "instances_val2014.json"
    val.write_text(json.dumps(json.loads(val.read_text()) | {"images": [], "annotations": []}))
    with faults_named(
        "category 1 has several names: human, person",
        "categories: 'traffic light' stands there twice",
        "categories: '../x' cannot be a part of a file's name",
        "instances_train2014.json: 2 images have the id 9",
        "instances_train2014.json: images[2] has no proper height",
        "instances_train2014.json: annotations[0] has no proper area",
        "instances_val2014.json: names no photo",
    ):
        prepare("coco2014_wsss", coco, tmp_path)


def test_objects_of_another_size_are_named_and_not_painted(coco, tmp_path, monkeypatch):
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"][0].update(height=10**6, width=10**6)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="000009: its objects are of 1000000x1000000, the photo is 32x24"):
        prepare("coco2014_wsss", coco, tmp_path)


def test_a_broken_annotation_file_is_named(coco, tmp_path):
    (coco / "annotations/instances_val2014.json").write_text('{"images": [')
    (coco / "annotations/instances_train2014.json").unlink()
    with pytest.raises(DataError, match=r"(?s)instances_train2014.json: there is no file.*instances_val2014.json: not valid JSON"):
        prepare("coco2014_wsss", coco, tmp_path)


def test_real_coco_photos_are_painted_as_others_paint_them(coco_mini, tmp_path):
    data = prepare("coco2014_wsss", coco_mini, tmp_path, saliency="none")
    assert data.num_classes == 80
    for split, count in (("train", 60), ("val", 40)):
        content = json.loads((coco_mini / "annotations" / f"instances_{split}2014.json").read_text())
        index = {key: k for k, key in enumerate(sorted(c["id"] for c in content["categories"]), 1)}
        painted = dict(data.masks(split))
        vectors = {e["id"].decode(): e["labels"] for e in data.photos(split)}
        assert len(painted) == len(vectors) == count
        agree = total = 0
        for image in content["images"]:
            objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            name = image["file_name"].removesuffix(".jpg")
            assert set(np.flatnonzero(vectors[name]) + 1) == {index[a["category_id"]] for a in objects}
            canvas = Image.new("L", (image["width"], image["height"]))
            for entry in sorted(objects, key=lambda a: -a["area"]):
                for polygon in entry["segmentation"]:  # Pillow's pixels have their centres at whole numbers
                    ImageDraw.Draw(canvas).polygon([n - 0.5 for n in polygon], fill=index[entry["category_id"]])
            theirs = np.asarray(canvas)
            agree += ((theirs == painted[name]) & (theirs > 0)).sum()
            total += ((theirs > 0) | (painted[name] > 0)).sum()
        assert agree / total > 0.98  # Pillow paints the outline too


# ---- VOC 2012 + SBD

IDS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"], "sbd": ["2008_000002", "2007_000033", "2007_000039"]}


@pytest.fixture
def voc(tmp_path, rng):
    """The official layout with the true file formats, 4 photos."""
    root = tmp_path / "voc"
    devkit, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    for folder in (
        *(devkit / kind for kind in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation")),
        sbd / "cls",
        root / "Saliency",
    ):
        folder.mkdir(parents=True)
    for split in ("train", "val"):
        (devkit / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(IDS[split]) + "\n")
    (sbd / "train.txt").write_text("\n".join(IDS["sbd"][:2]) + "\n")
    (sbd / "val.txt").write_text(IDS["sbd"][2] + "\n")
    for name in sorted({name for names in IDS.values() for name in names}):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(devkit / "JPEGImages" / f"{name}.jpg")
        entry = "<object><name>cat</name></object>"
        (devkit / "Annotations" / f"{name}.xml").write_text(f"<annotation><filename>{name}.jpg</filename>{entry}</annotation>")
        files.write_grey_png(root / "Saliency" / f"{name}.png", rng.integers(0, 256, (24, 32), np.uint8))
        plane = rng.choice([0, 8], (24, 32)).astype(np.uint8)
        if name in IDS["train"] + IDS["val"]:
            files.write_label_png(devkit / "SegmentationClass" / f"{name}.png", plane)
        if name in IDS["sbd"]:
            scipy.io.savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": 8 - plane, "Boundaries": 0}}, do_compression=True)
    return root


def test_voc_with_sbd(voc, tmp_path, capsys):
    data = prepare("voc2012_wsss", voc, tmp_path, train="train_aug")
    assert "train_aug holds 3 photos, the official one 10582" in capsys.readouterr().err
    assert data.classes == voc2012.CLASSES and data.num_classes == 20
    examples = {e["id"].decode(): e for e in data.photos("train_aug")}
    assert sorted(examples) == ["2007_000032", "2007_000039", "2008_000002"]  # of SBD, what is not in val
    assert all(np.flatnonzero(e["labels"]).tolist() == [voc2012.CLASSES.index("cat") - 1] for e in examples.values())
    assert "segmentation" not in examples["2008_000002"]
    found = dict(data.masks("train_aug"))
    mat = scipy.io.loadmat(voc / "benchmark_RELEASE/dataset/cls/2008_000002.mat")["GTcls"]["Segmentation"][0, 0]
    np.testing.assert_array_equal(found["2008_000002"], mat)
    png = files.read_plane(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000039.png")
    np.testing.assert_array_equal(found["2007_000039"], png)  # VOC's own goes before SBD's


def test_voc_from_its_archives(voc, tmp_path):
    archives = tmp_path / "archives"
    shutil.copytree(voc / "Saliency", archives / "Saliency")
    for name, mode, folder in (("VOCtrainval_11-May-2012.tar", "w", "VOCdevkit"), ("benchmark.tgz", "w:gz", "benchmark_RELEASE")):
        with tarfile.open(archives / name, mode) as tar:
            tar.add(voc / folder, folder)
    packed_data = prepare("voc2012_wsss", archives, tmp_path, train="train_aug")
    unpacked = prepare("voc2012_wsss", voc, tmp_path, train="train_aug")
    for split in ("train_aug", "val"):
        assert sorted(e["image"] for e in packed_data.photos(split)) == sorted(e["image"] for e in unpacked.photos(split))
    (archives / "benchmark.tgz").write_bytes((archives / "benchmark.tgz").read_bytes()[:500])
    with pytest.raises(DataError, match=r"benchmark.tgz cannot be unpacked"):
        prepare("voc2012_wsss", archives, tmp_path, train="train_aug")


def test_every_fault_of_voc_is_named_at_once(voc, tmp_path):
    devkit = voc / "VOCdevkit/VOC2012"
    (devkit / "JPEGImages/2007_000032.jpg").unlink()
    (devkit / "Annotations/2007_000033.xml").write_text("<annotation><object><name>unicorn</name></object></annotation>")
    (devkit / "SegmentationClass/2007_000033.png").unlink()
    (voc / "benchmark_RELEASE/dataset/cls/2007_000033.mat").unlink()
    (voc / "benchmark_RELEASE/dataset/cls/2008_000002.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with faults_named(
        "2007_000032: no photo JPEGImages/2007_000032.jpg",
        "Annotations/2007_000033.xml: 2007_000033 has the class 'unicorn'",
        "2007_000033: no mask SegmentationClass/2007_000033.png",
        "2008_000002: cls/2008_000002.mat cannot be read: not a class map of SBD",
    ):
        prepare("voc2012_wsss", voc, tmp_path, train="train_aug")


def test_sbd_does_not_stand_in_for_masks_of_voc(voc, tmp_path):
    (voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png").unlink()
    with pytest.raises(DataError, match=r"1 fault:\n  2007_000033: no mask SegmentationClass/2007_000033\.png"):
        prepare("voc2012_wsss", voc, tmp_path)


def test_splits_of_voc(voc, tmp_path):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt").write_text("2008_000002\n")
    data = prepare("voc2012_wsss", voc, tmp_path, val="test")
    assert len(data.photos("test")) == 1 and not data.has_masks("test")
    with pytest.raises(ValueError, match="VOC's test photos have no labels"):
        prepare("voc2012_wsss", voc, tmp_path, train="test")
    with pytest.raises(DataError, match="2007_000032: is in split train_aug and in split train"):
        prepare("voc2012_wsss", voc, tmp_path, train="train_aug", val="train")
    with pytest.raises(ValueError, match=r"'val\.2' cannot be the name of a split"):
        prepare("voc2012_wsss", voc, tmp_path, val="val.2")


def test_masks_are_scored_without_what_training_needs(voc, tmp_path):
    config = importlib.import_module("configs.voc").get_config("efficientnet_lite0")
    config.data.update({"root": str(voc), "cache_dir": str(tmp_path / "cache")})
    shutil.rmtree(voc / "benchmark_RELEASE")
    shutil.rmtree(voc / "Saliency")
    found = stages.evaluate_folder(config, voc / "VOCdevkit/VOC2012/SegmentationClass", None)
    assert found["split"] == "val" and found["miou"] == 100


@pytest.mark.parametrize(
    ("train", "missing", "message"), [("train_aug", "benchmark_RELEASE", "train_aug needs SBD"), ("train", "VOCdevkit", "neither VOC")]
)
def test_what_voc_needs_is_named(voc, tmp_path, train, missing, message):
    shutil.rmtree(voc / missing)
    with pytest.raises(DataError, match=message):
        prepare("voc2012_wsss", voc, tmp_path, train=train)


# ---- what all have


def test_several_saliency_maps_are_averaged(voc, tmp_path):
    for name in sorted({name for names in IDS.values() for name in names}):
        files.write_grey_png(voc / "Other" / f"{name}.png", np.full((24, 32), 255, np.uint8))
    data = prepare("voc2012_wsss", voc, tmp_path, saliency="Saliency,Other")
    example = data.photos("train")[0]
    one = files.read_plane(voc / "Saliency" / f"{example['id'].decode()}.png").astype(float)
    np.testing.assert_array_equal(files.decode_plane(example["saliency"]), np.round((one + 255) / 2))


def test_photos_of_other_colours_are_named(voc, tmp_path):
    folder = voc / "VOCdevkit/VOC2012/JPEGImages"
    Image.new("CMYK", (32, 24)).save(folder / "2007_000032.jpg")
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(folder / "2007_000039.jpg", "PNG")
    with pytest.raises(DataError, match=r"(?s)2007_000032.jpg cannot be read: its colours are CMYK.*2007_000039.jpg cannot be read: its colours are"):
        prepare("voc2012_wsss", voc, tmp_path)


def test_a_killed_preparation_is_not_done_again(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK", 1)
    monkeypatch.setattr(pictures, "_WORTH_PROCESSES", 100)
    read_once, original = [], pictures._check_chunk

    def killed(photos, num_labels, path):
        if len(read_once) == 2:
            raise KeyboardInterrupt
        read_once.append(path.name)
        return original(photos, num_labels, path)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_check_chunk", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare("coco2014_wsss", coco, tmp_path)
    rest = []
    monkeypatch.setattr(pictures, "_check_chunk", lambda *job: rest.append(job[-1].name) or original(*job))
    assert len(prepare("coco2014_wsss", coco, tmp_path).photos("train")) == 3
    assert len(rest) == 3 and not set(rest) & set(read_once)


@pytest.mark.slow
def test_a_preparation_after_kill_9_does_the_rest(tmp_path, monkeypatch):
    root, chunks = tmp_path / "coco", 24
    photo = io.BytesIO()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(photo, "JPEG")
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 64 * chunks), ("val", 1)):
        (root / f"{split}2014").mkdir()
        images = [{"id": k, "file_name": f"{split}{k:05d}.jpg", "height": 24, "width": 32} for k in range(count)]
        for image in images:
            (root / f"{split}2014" / image["file_name"]).write_bytes(photo.getvalue())
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    fields = (
        f"builder='coco2014_wsss', train_split='train', val_split='val', cache_dir={str(tmp_path / 'cache')!r}, root={str(root)!r}, saliency='none'"
    )
    script = tmp_path / "prepare.py"  # a file: its processes import it
    script.write_text(f"from auxseg_jax.data import dataset\nif __name__ == '__main__':\n    dataset.prepare({fields})\n")
    process = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    while not (done := list(tmp_path.glob("cache/coco2014_wsss/*.work/train.*.npz"))):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    jobs, original = [], pictures.parallel
    monkeypatch.setattr(pictures, "parallel", lambda function, left, workers: jobs.extend(left) or original(function, left, workers))
    data = prepare("coco2014_wsss", root, tmp_path, saliency="none")
    assert len(data.photos("train")) == 64 * chunks and data.sizes("train") == [(24, 32)] * (64 * chunks)
    again = {path.name for *_, path in jobs}
    assert 0 < len(again) <= chunks + 1 - len(done) and not again & {path.name for path in done}


def test_a_mended_picture_is_all_that_is_read_again(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK", 1)
    monkeypatch.setattr(pictures, "_WORTH_PROCESSES", 100)
    photo = coco / "train2014/COCO_train2014_000000000025.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:-200])
    with pytest.raises(DataError, match="1 fault"):
        prepare("coco2014_wsss", coco, tmp_path)
    photo.write_bytes(whole)
    again, original = [], pictures._check_chunk
    monkeypatch.setattr(pictures, "_check_chunk", lambda *job: again.append(job[0][0].name) or original(*job))
    data = prepare("coco2014_wsss", coco, tmp_path)
    assert again == [photo.stem]
    assert {path.name for path in (tmp_path / "cache/coco2014_wsss").iterdir()} == {data.digest, ".lock"}


def die(number):
    os.kill(os.getpid(), 9)


def test_a_process_that_dies_is_said():
    with pytest.raises(ValueError, match="a process died while it read pictures"):
        list(pictures.parallel(die, [(1,), (2,)], 2))


def die_at_the_second(photos, num_labels, path):
    del num_labels
    if photos[0].name.endswith("30"):
        die(0)
    files.write_bytes(path, b"")
    return []


def test_the_photos_at_which_a_process_died_are_named(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK", 1)
    monkeypatch.setattr(pictures, "_check_chunk", die_at_the_second)
    with pytest.raises(ValueError, match=r"a process died .* at one of the photos COCO_train2014_0\d+ to COCO_"):
        prepare("coco2014_wsss", coco, tmp_path)


def test_processes_give_what_one_gives():
    jobs = [(k, 3) for k in range(20)]
    assert list(pictures.parallel(pow, jobs, 2)) == [k**3 for k in range(20)]
