"""Splits, tables of labels as they come, pseudo labels that cannot be learned, space, checksums."""

import collections
import os

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import faults_named
from etils import epath

from auxseg_jax.data import about, label_check, label_csv, label_names, label_tables
from auxseg_jax.data.folder_layout import lay_out, stratify
from auxseg_jax.errors import UserError, collect
from auxseg_jax.files import storage
from auxseg_jax.training.fingerprint import differences, fingerprint


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9])
def test_splits_are_as_large_as_asked_and_hold_every_class(share):
    labels = {
        f"p{k:03d}": ["cat", "dog", "cow"][k % 3 : k % 3 + 1 + (k % 5 == 0)] for k in range(60)
    }
    chosen = stratify(labels, share, seed=0)
    assert len(chosen) == round(60 * share) and chosen == stratify(labels, share, seed=0)
    assert chosen != stratify(labels, share, seed=1)
    for name in ("cat", "dog", "cow"):
        photos = [photo for photo, classes in labels.items() if name in classes]
        share_of_class = sum(photo in chosen for photo in photos) / len(photos)
        assert abs(share_of_class - share) < 0.08, name


def test_rare_classes_are_trained():
    labels = {
        f"p{k}": ["zebra"] if k == 9 else ["back"] if k % 5 == 4 else ["front"] for k in range(20)
    }
    for share in (0.1, 0.2, 0.5, 0.8):
        chosen = stratify(labels, share, seed=0)
        assert "p9" not in chosen
        assert 0 < sum(labels[name] == ["back"] for name in chosen) < 3
    assert len(stratify({"a": ["cat"], "b": ["cat"]}, 0.01, seed=0)) == 1


def parse(text, classes=None):
    with collect("labels"):
        labels = label_csv.parse(text, "l.csv")
        label_names.check(labels, are_listed=classes is not None)
    return {photo: list(names) for photo, (_, names) in labels.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id;classes\na;cat\nb;dog|cat\n", {"a": ["cat"], "b": ["dog", "cat"]}),
        ("id\tclasses\na\tcat\nb\t\n", {"a": ["cat"], "b": []}),
        (",id,classes\n0,a,cat\n1,b,dog\n", {"a": ["cat"], "b": ["dog"]}),
        (",cat,dog\n0,1,0\n1,0,1\n", {"0": ["cat"], "1": ["dog"]}),
        ("id,cat,dog\na,True,False\nb,False,True\n", {"a": ["cat"], "b": ["dog"]}),
        ("id,defect\na,1.0\nb,0.0\n", {"a": ["defect"], "b": []}),
        ("id,class,\na,cat,\nb,dog,\n", {"a": ["cat"], "b": ["dog"]}),
        ("id,classes\ra,cat\rb,dog\r", {"a": ["cat"], "b": ["dog"]}),
        ("id,classes\na,\nb,\n", {"a": [], "b": []}),
        ("id,split,classes,note\na,train,cat,x\nb,val,dog,y\n", {"a": ["cat"], "b": ["dog"]}),
        ("filename,label\na.jpg,red cat\n", {"a.jpg": ["red cat"]}),
    ],
)
def test_what_is_unambiguous_is_read(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,0\nb,1\n", "numbers of classes, or whether there is one class"),
        ("id,class_id\na,0\nb,1\n", "numbers of classes, or whether there is one class"),
        ("id,gt\na,0.0\nb,1.0\n", "numbers of classes, or whether there is one class"),
        ("id,label\na,3\nb,7\n", "write the names of the classes"),
        ("a,cat\nb,dog\n", "the first line, a, cat, is a photo"),
        ("a,1,0\nb,0,1\n", "the first line, a, 1, 0"),
        ('id,classes\na,"crane,bird"\n', "may be one class or several"),
        ("id\tclasses\na\tcrane,bird\n", "may be one class or several"),
        (
            "id,classes\na,cat;dog\nb,cat\nb,dog\n",
            "line 4: b has a line already; .* as line 2 does",
        ),
        ("id,cat,cat\na,1,0\n", "two columns are called 'cat'"),
        ("id,cat,\na,1,0\n", "column 3 has no name"),
        ("id,cat,dog\na,1,0.7\n", "line 2: '0.7' in a table of 3 columns"),
        ("id,classes\na,Dog\nb,dog\n", "differ in case, blanks or unseen letters alone"),
        ("id,classes\na,\u200bdog\nb,dog\n", "differ in case, blanks or unseen letters alone"),
        ("id,classes\na,\uff44og\nb,dog\n", "differ in case, blanks or unseen letters alone"),
        ("id,classes\na,nan\n", "has the class 'nan'"),
        ("id,classes\na,['cat']\n", "write names, parted by ';', without brackets"),
        ("id,classes\na,background\n", "has the class 'background'"),
        ("id,classes\n", "names no photo"),
        ("id,classes\na,cat,dog\n", "3 columns, the header has 2"),
    ],
)
def test_what_may_mean_two_things_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("rare", "is_refused"),
    [("coww", True), ("cwo", False), ("hrose", True), ("grade_2", False), ("house", False)],
)
def test_slips_of_the_pen(rare, is_refused):
    often = {"coww": "cow", "cwo": "cow", "hrose": "horse", "grade_2": "grade_1", "house": "horse"}
    rows = [f"p{k},{often[rare]}" for k in range(20)] + [f"q,{rare}"]
    text = "\n".join(["id,classes", *rows])
    if is_refused:
        with pytest.raises(UserError, match=f"{rare!r} .1 photos. looks like {often[rare]!r}"):
            parse(text)
    assert parse(text, classes=[]) and (is_refused or parse(text))


def test_files_of_one_id_are_named(tmp_path):
    (tmp_path / "labels.csv").write_text("id,classes\np.jpg,cat\np.png,dog\nq.JPG,cat\n")
    with faults_named("p.jpg and p.png are both the photo p"), collect(tmp_path):
        label_tables.read(tmp_path / "labels.csv")


def test_a_photo_of_another_format_is_named(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    for name in ("a.jpg", "b.jpg", "c.webp"):
        (tmp_path / "JPEGImages" / name).write_bytes(b"")
    labels = {name: ("here", ["cat"]) for name in ("a", "b", "c")}
    with faults_named("no photo JPEGImages/c.jpg; c.webp is of another format"):
        lay_out(tmp_path, labels, None, 0.2)


def test_encodings(tmp_path):
    path, text = tmp_path / "labels.csv", "id,classes\na,café\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert storage.read_text(path) == text
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(UserError, match="line 2 is not in UTF-8"):
        storage.read_text(path)


def make_photos(root, count):
    (root / "JPEGImages").mkdir()
    for k in range(count):
        (root / f"JPEGImages/p{k}.jpg").write_bytes(b"")


def test_lists_are_replaced_only_by_force(tmp_path):
    make_photos(tmp_path, 6)
    labels = {f"p{k}": ("here", ["cat" if k % 2 else "dog"]) for k in range(6)}
    lay_out(tmp_path, labels, None, 0.5)
    labels["p0"] = ("here", ["cat"])
    with pytest.raises(UserError, match=r"line 1: 'p0 dog' there, 'p0 cat' now.; --force"):
        lay_out(tmp_path, labels, None, 0.5)
    assert "image_labels.txt" in lay_out(tmp_path, labels, None, 0.5, force=True).written
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    (tmp_path / "p9.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="move them: mkdir"):
        lay_out(tmp_path, labels, None, 0.5)


def data_of(tmp_path, photos):
    split = about.Split(sum(photos), tuple(photos), 0, False)
    content = about.About(
        "x", "content:0", ("background", "cat", "dog"), (), {"train": split}, (), ()
    )
    about.write(tmp_path, content)
    fields = ("directory", "train_split", "classes")
    return collections.namedtuple("Data", fields)(tmp_path, "train", content.classes)


def test_labels_that_cannot_be_learned(tmp_path, capsys):
    pixels = np.zeros(256, np.int64)
    pixels[[0, 255]] = 60, 40
    with pytest.raises(UserError, match=r"cat .9 photos., dog .5 photos.: 60% of their pixels are"):
        label_check.check(pixels, data_of(tmp_path, (9, 5)), strict=True)
    label_check.check(pixels, data_of(tmp_path, (9, 5)), strict=False)
    assert "no pixel of the pseudo labels has the class cat" in capsys.readouterr().err
    pixels[1] = 5
    with pytest.raises(UserError, match=r"has the class dog .5 photos."):
        label_check.check(pixels, data_of(tmp_path, (9, 5)), strict=True)
    label_check.check(pixels, data_of(tmp_path, (9, 4)), strict=True)  # Too few to tell.
    assert "has the class dog" in capsys.readouterr().err
    label_check.check(pixels, data_of(tmp_path, (9, 0)), strict=True)
    assert not capsys.readouterr().err


def test_space_is_looked_at_before(tmp_path):
    storage.check_space(tmp_path / "not/there", 10, "little")
    with pytest.raises(UserError, match=r"needs 1.1e\+09 GiB .much., and"):
        storage.check_space(tmp_path / "not/there", 2**60, "much")


def test_a_checksum_changes_with_any_bit():
    tree = {"a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4), "b": jnp.ones(3, jnp.bfloat16)}
    written = fingerprint(tree)
    assert differences(tree, written) == []
    words = np.array(tree["a"]).view(np.uint32).reshape(-1)
    for place, bit in ((0, 0), (5, 31), (11, 12)):
        changed = words.copy()
        changed[place] ^= np.uint32(1 << bit)
        other = {**tree, "a": jnp.asarray(changed.view(np.float32).reshape(3, 4))}
        assert differences(other, written) == ["['a']"]
    assert differences(tree, {}) == []  # Older checkpoints have none.


@pytest.mark.parametrize("count", [16, 20])
def test_no_class_is_missing_from_a_split_where_there_is_room(count):
    names = "abc"
    labels = {
        f"p{k:02}": [names[k % 3]] + ([names[(k + 1) % 3]] if k % 4 == 0 else [])
        for k in range(count)
    }
    for seed in range(50):
        chosen = stratify(labels, 0.2, seed)
        assert len(chosen) == round(0.2 * count)
        for name in names:
            photos = {photo for photo, classes in labels.items() if name in classes}
            assert photos & chosen and photos - chosen, (seed, name)


def test_a_corrected_label_keeps_the_split(tmp_path):
    make_photos(tmp_path, 12)
    labels = {f"p{k}": ("here", ["cat" if k % 3 else "dog"]) for k in range(12)}
    lay_out(tmp_path, labels, None, 0.25)
    before = (tmp_path / "ImageSets/Segmentation/val.txt").read_text()
    for k in range(4):
        labels[f"p{k}"] = ("here", ["cow"])
    lay_out(tmp_path, labels, None, 0.25, force=True)
    assert (tmp_path / "ImageSets/Segmentation/val.txt").read_text() == before


def test_a_csv_is_not_written_that_would_read_otherwise(tmp_path):
    with pytest.raises(UserError, match=r"'b\|c', 'x;y'"):
        label_tables.write(tmp_path / "l.csv", {"a": ["x;y", "b|c", "cat"]})


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device", os.fspath(self))

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: .*mine\.png") as error:
        storage.write_bytes(tmp_path / "mine.png", b"x")
    assert error.value.errno == 28
