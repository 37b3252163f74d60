"""COCO 2014 in its official layout."""

import json

import numpy as np
import pytest
from conftest import faults_named, prepare_files
from PIL import Image, ImageDraw

from auxseg_jax.data import about, coco2014
from auxseg_jax.errors import UserError


def test_coco(coco, tmp_path):
    data = prepare_files("coco2014_wsss", coco, tmp_path)
    assert data.classes == ("background", "person", "traffic light")
    assert "train holds 3 photos, the official one 82783" in "".join(
        about.read(data.directory).remarks
    )
    examples = {e["id"].decode(): e for e in data.photos("train")}
    assert {k[-2:]: e["labels"].tolist() for k, e in examples.items()} == {
        "09": [1, 1],
        "25": [0, 0],
        "30": [0, 0],
    }
    assert set(examples["COCO_train2014_000000000009"]) == {
        "id",
        "image",
        "labels",
        "saliency",
        "size",
    }
    expected = np.zeros((24, 32), np.uint8)
    expected[5:20, 10:30] = 1
    expected[3:15, 3:20] = 2
    found = dict(data.masks("train", "score"))
    np.testing.assert_array_equal(found["COCO_train2014_000000000009"], expected)
    assert len(found) == 3 and not found["COCO_train2014_000000000030"].any()


def test_annotations_are_parsed_where_a_file_has_changed_alone(coco, tmp_path, monkeypatch):
    parsed, original = [], coco2014._read_json
    monkeypatch.setattr(
        coco2014, "_read_json", lambda path: parsed.append(path.name) or original(path)
    )
    first = prepare_files("coco2014_wsss", coco, tmp_path)
    assert len(parsed) == 2  # One a split, although lists, check and build ask for them.
    again = prepare_files("coco2014_wsss", coco, tmp_path)
    assert len(parsed) == 2 and again == first
    for changed in (
        "Saliency/COCO_train2014_000000000009.png",
        "annotations/instances_val2014.json",
    ):
        path, before = coco / changed, len(parsed)
        path.write_bytes(path.read_bytes())
        assert prepare_files("coco2014_wsss", coco, tmp_path).digest == first.digest
        assert len(parsed) == before + 2, changed


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
        {
            "image_id": 30,
            "category_id": 1,
            "area": 1,
            "segmentation": {"size": [24, 32], "counts": [5]},
        },
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
        "COCO_train2014_000000000030: its objects cannot be read: its run lengths sum to 5, "
        "the photo has 768 pixels",
        "COCO_val2014_000000000042: val2014/COCO_val2014_000000000042.jpg cannot be read",
    ):
        prepare_files("coco2014_wsss", coco, tmp_path)
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
        prepare_files("coco2014_wsss", coco, tmp_path)


def test_objects_of_another_size_are_named_and_not_painted(coco, tmp_path):
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"][0].update(height=10**6, width=10**6)
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match="000009: its objects are of 1000000x1000000, the photo is 32x24"
    ):
        prepare_files("coco2014_wsss", coco, tmp_path)


def test_a_broken_annotation_file_is_named(coco, tmp_path):
    (coco / "annotations/instances_val2014.json").write_text('{"images": [')
    (coco / "annotations/instances_train2014.json").unlink()
    with pytest.raises(
        UserError,
        match=r"(?s)train2014.json: there is no file.*val2014.json: not valid JSON",
    ):
        prepare_files("coco2014_wsss", coco, tmp_path)


def test_real_coco_photos_are_painted_as_others_paint_them(coco_mini, tmp_path):
    data = prepare_files("coco2014_wsss", coco_mini, tmp_path, saliency="none")
    assert data.num_classes == 80
    for split, count in (("train", 60), ("val", 40)):
        content = json.loads(
            (coco_mini / "annotations" / f"instances_{split}2014.json").read_text()
        )
        index = {key: k for k, key in enumerate(sorted(c["id"] for c in content["categories"]), 1)}
        painted = dict(data.masks(split, "score"))
        vectors = {e["id"].decode(): e["labels"] for e in data.photos(split)}
        assert len(painted) == len(vectors) == count
        agree = total = 0
        for image in content["images"]:
            objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            name = image["file_name"].removesuffix(".jpg")
            assert set(np.flatnonzero(vectors[name]) + 1) == {
                index[a["category_id"]] for a in objects
            }
            canvas = Image.new("L", (image["width"], image["height"]))
            for entry in sorted(objects, key=lambda a: -a["area"]):
                for polygon in entry[
                    "segmentation"
                ]:  # Pillow's pixels have their centres at whole numbers
                    ImageDraw.Draw(canvas).polygon(
                        [n - 0.5 for n in polygon], fill=index[entry["category_id"]]
                    )
            theirs = np.asarray(canvas)
            agree += ((theirs == painted[name]) & (theirs > 0)).sum()
            total += ((theirs > 0) | (painted[name] > 0)).sum()
        assert agree / total > 0.98  # Pillow paints the outline too
