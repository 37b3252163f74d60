"""Image-level labels in every form, and a folder of photos that becomes a data set."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, prepare_files
from etils import epath
from PIL import Image

from auxseg_jax.data import folder_layout, label_tables, listing
from auxseg_jax.errors import UserError, collect

NAMES = {"a1": ["cat"], "a2": ["dog", "traffic light"], "a3": []}
CLASSES = ["background", "cat", "dog", "traffic light"]


def read_faulty(path):
    """Labels of a file, and its faults."""
    with collect() as faults:
        labels = label_tables.read(path)
    return labels, faults


def read(path, classes=CLASSES):
    with collect(path):
        return label_tables.class_names(label_tables.read(path), classes)


def npy(path, content, core="numpy._core", protocol=4):
    """Writes a dict as np.save does; older numpy names its module numpy.core."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    path.write_bytes(
        buffer.getvalue()
        + pickle.dumps(np.array(content, object), protocol).replace(b"numpy._core", core.encode())
    )


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_labels_are_read_as_they_were_written(tmp_path, ending):
    label_tables.write(tmp_path / f"labels.{ending}", NAMES)
    assert read(tmp_path / f"labels.{ending}") == NAMES


def test_a_text_file_parts_names_by_tabs_where_a_name_has_blanks(tmp_path):
    path = tmp_path / "image_labels.txt"
    spaced = {"WhatsApp Image 3": ["dog"], "shot\u202f1": []}
    for labels in (NAMES, {**NAMES, "a2": ["dog"]}, spaced):
        label_tables.write(path, labels)
        assert read(path) == labels
        assert ("\t" in path.read_text()) == (labels != {**NAMES, "a2": ["dog"]})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.txt", "p1\tcat dog\np2\tcat\np3\t dog\n"),
        ("labels.csv", "id,classes\np1,cat dog\np2,cat\np3, dog\n"),
    ],
)
def test_classes_parted_by_blanks_are_refused(tmp_path, file, text):
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(UserError, match="'cat dog' may be one class or several, for its words"):
        read(path, classes=None)
    classes = ["background", "cat", "cat dog", "dog"]
    assert read(path, classes) == {"p1": ["cat dog"], "p2": ["cat"], "p3": ["dog"]}


def test_photos_and_classes_with_blanks_become_a_data_set(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    names = [f"IMG {k}  (1)" for k in range(6)]
    for name in names:
        Image.new("RGB", (30, 20)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    labels = {name: ("table", ["traffic light"] * (k % 2)) for k, name in enumerate(names)}
    folder_layout.lay_out(tmp_path, labels, None, 0.34)
    folder_layout.lay_out(tmp_path, labels, None, 0.34, force=True)  # It reads its own lists.
    fields = {"labels": "image_labels.txt", "saliency": "none"}
    data = prepare_files("voc_folder", tmp_path, tmp_path, **fields)
    assert data.classes == ("background", "traffic light")
    assert sorted(data.ids("train") + data.ids("val")) == names


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
    _, faults = read_faulty(tmp_path / "labels.csv")
    assert len(faults) == 1 and faults[0].startswith("labels.csv: ")


def test_annotations_of_voc(tmp_path):
    for name, objects in NAMES.items():
        entries = "".join(
            f"<object><name>{label}</name><difficult>1</difficult></object>" * 2
            for label in objects
        )
        (tmp_path / f"{name}.xml").write_text(f"<annotation>{entries}</annotation>")
    assert read(tmp_path) == NAMES
    (tmp_path / "a4.xml").write_text("<annotation><object>")
    (tmp_path / "a5.xml").write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation/>')
    _, faults = read_faulty(tmp_path)
    assert [fault.split(":")[0] for fault in faults] == ["a4.xml", "a5.xml"]


@pytest.mark.parametrize(
    ("core", "protocol"),
    [("numpy.core", 2), ("numpy.core", 3), ("numpy._core", 3), ("numpy._core", 4)],
)
def test_pickled_vectors_are_read_without_their_pickle(tmp_path, core, protocol):
    ids = ["2007_000032", "2008_000001", "COCO_train2014_000000000009"]
    keys = [2007000032, "2008_000001", np.int64(9)]
    vectors = [
        np.array([1, 0, 0], np.float32),
        np.array([0, 1, 1], np.uint8),
        np.zeros(3, np.int64),
    ]
    npy(tmp_path / "cls_labels.npy", dict(zip(keys, vectors, strict=True)), core, protocol)
    found, faults = read_faulty(tmp_path / "cls_labels.npy")
    assert not faults
    named = label_tables.class_names(label_tables.with_ids(found, ids), CLASSES)
    assert named == dict(zip(ids, NAMES.values(), strict=True))


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_a_hostile_pickle_is_refused(tmp_path, capsys):
    for content in ({"a1": Hostile()}, {"a1": "text"}, ["a1"], {"a1": np.array(["text"])}):
        npy(tmp_path / "cls_labels.npy", content)
        _, faults = read_faulty(tmp_path / "cls_labels.npy")
        assert faults and (
            "not a dict of label vectors" in faults[0] or "not a readable .npy" in faults[0]
        )
    assert not capsys.readouterr().out


def test_an_id_is_itself_before_it_is_a_number():
    found = label_tables.with_ids({"1": ("x", ["a"]), "9": ("x", ["b"])}, ["1", "IMG_1", "COCO_9"])
    assert found == {"1": ("x", ["a"]), "COCO_9": ("x", ["b"])}
    with pytest.raises(ValueError, match="COCO_9 is there twice"):
        label_tables.with_ids({"COCO_9": ("x", []), "9": ("x", [])}, ["COCO_9"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"a1": ["cat"], "a1": ["dog"]}', "'a1' is there twice"),
        ("a.json", "[" * 100000, "recursion"),
        ("a.csv", 'id,classes\na1,"cat\na2,dog\n', "unexpected end of data"),
        (
            "a.json",
            '{"categories": [], "annotations": [], "images": [{"id": 1, "file_name": "a"}, '
            '{"id": 1, "file_name": "b"}]}',
            "one id",
        ),
        (
            "a.json",
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, '
            '{"id": 1, "name": "dog"}]}',
            "two categories have one id",
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_a_fault(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    found, faults = read_faulty(tmp_path / name)
    assert not found and len(faults) == 1 and message in faults[0]


def test_a_class_that_a_photo_names_twice_counts_once(tmp_path):
    (tmp_path / "a.txt").write_text("a1 cat cat\na2 caf\u00e9 cafe\u0301\n")
    (tmp_path / "a.json").write_text('{"a1": ["cat", " cat"], "a2": ["cafe\u0301"]}')
    for name in ("a.txt", "a.json"):
        assert read(tmp_path / name, None) == {"a1": ["cat"], "a2": ["caf\u00e9"]}


def test_a_list_of_classes_is_composed_as_labels_are(tmp_path):
    (tmp_path / "classes.txt").write_text("background\ncafe\u0301\n")
    (tmp_path / "a.txt").write_text("a1 cafe\u0301\n")
    classes = listing.read_class_names(epath.Path(tmp_path / "classes.txt"))
    assert read(tmp_path / "a.txt", classes) == {"a1": ["caf\u00e9"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "a1\tcat\t\tdog\n", "line 1: a1 has a class without a name"),
        ("a.json", '{"a1": ["cat", " "]}', "a1 has a class without a name"),
        ("a.csv", 'id,classes\na1,"cat\ndog"\n', r"the class 'cat\ndog', which cannot be"),
        ("a.json", '{"a1": ["c\\ud800"]}', "which cannot be a part of a file's name"),
    ],
)
def test_names_that_no_list_can_hold_are_faults(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    _, faults = read_faulty(tmp_path / name)
    assert len(faults) == 1 and message in faults[0]


def test_byte_order_marks_are_no_part_of_a_name(tmp_path):
    (tmp_path / "image_labels.txt").write_text("a1 cat\r\na3\r\n", encoding="utf-8-sig", newline="")
    assert read(tmp_path / "image_labels.txt") == {"a1": ["cat"], "a3": []}


def test_numbers_that_mean_two_photos():
    with pytest.raises(ValueError, match=r"the number 9 may mean a_9 or b_9"):
        label_tables.with_ids({"9": ("x", [])}, ["a_9", "b_9"])


def run(*arguments):
    command = [sys.executable, "-m", "auxseg_jax", "labels", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)


def test_a_folder_of_photos_and_a_table_become_a_data_set(tmp_path, rng):
    root = tmp_path / "photos"
    (root / "JPEGImages").mkdir(parents=True)
    for k in range(10):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(
            root / "JPEGImages" / f"p{k}{'.jpg' if k % 2 else '.JPEG'}"
        )
    (tmp_path / "labels.csv").write_text(
        "id,classes\n" + "".join(f"p{k},{'cat' if k % 3 else 'dog'}\n" for k in range(10))
    )
    done = run("--from", tmp_path / "labels.csv", "--to", root, "--val-share", 0.3)
    assert done.returncode == 0, done.stderr
    fields = {"labels": "image_labels.txt", "saliency": "none"}
    data = prepare_files("voc_folder", root, tmp_path, **fields)
    assert data.classes == ("background", "cat", "dog")
    assert (len(data.photos("train")), len(data.photos("val"))) == (7, 3)
    assert set(data.photos("train")[0]) == {"id", "image", "labels", "size"}
    again = run("--from", tmp_path / "labels.csv", "--to", root, "--val-share", 0.3)
    assert again.stdout.endswith("every list was there already\n")
    assert again.stdout.startswith(
        "10 photos, 2 classes: 6 cat, 4 dog; 0 without a class\n  p0: dog"
    )
    other = (tmp_path / "labels.csv").read_text().replace("p1,cat", "p1,dog")
    (tmp_path / "labels.csv").write_text(other)
    wrong = run("--from", tmp_path / "labels.csv", "--to", root, "--val-share", 0.3)
    assert (
        wrong.returncode == 1
        and "image_labels.txt is there already, and would be written otherwise" in wrong.stderr
    )
    (tmp_path / "labels.csv").write_text("id,classes\np0,cat\nq,dog\n")
    wrong = run("--from", tmp_path / "labels.csv", "--to", root)
    assert wrong.returncode == 1 and "q: has labels, but there is no photo" in wrong.stderr
