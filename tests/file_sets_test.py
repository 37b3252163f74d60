"""Sets of small files, each by itself or as ArrayRecord: written, read, left half done."""

import concurrent.futures

import numpy as np
import pytest

from auxseg_jax.data import cam_files, pseudo_labels
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(file_sets, "_RECORDS_A_FILE", 16)


FORMATS = ("files", "array_record")
KEYS = ("a/{}.png", "{}.npy")


def content(index):
    return {"a/{}.png": b"x" * index, "{}.npy": str(index).encode()}


def fill(folder, form, hosts=1, count=40):
    for host in range(hosts):
        opened = file_sets.writer(folder, form, (host, hosts))
        with opened as write, concurrent.futures.ThreadPoolExecutor(4) as pool:
            names = [f"p{index}" for index in range(host, count, hosts)]
            list(pool.map(write, names, map(content, range(host, count, hosts))))


def fill_half(folder):
    with file_sets.writer(folder, "array_record") as write:
        write("p0", content(0))
        raise RuntimeError("stop")


def check(folder, count=40):
    read = file_sets.reader(folder)
    for index in reversed(range(count)):
        assert read(f"p{index}", KEYS) == list(content(index).values())
    assert read("p3", ["{}.npy"]) == [b"3"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("hosts", [1, 3])
def test_what_is_written_is_read(form, hosts, tmp_path):
    fill(tmp_path / "labels", form, hosts)
    check(tmp_path / "labels")
    names = {path.name for path in (tmp_path / "labels").iterdir()}
    if form == "array_record":
        files = -(-len(range(0, 40, hosts)) // 16)
        assert len(names) == (1 + files) * hosts
        assert f"part-00000-of-0000{hosts}-00000.array_record" in names
    else:
        assert len(names) == 41 and "a" in names


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_not_there_is_named(form, tmp_path):
    fill(tmp_path, form)
    read = file_sets.reader(tmp_path)
    with pytest.raises(UserError, match="p99"):
        read("p99", KEYS)
    with pytest.raises(UserError, match="p1"):
        read("p1", ["b/{}.png"])


def test_one_hash_of_two_photos_is_no_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(file_sets, "_hash", lambda name: b"\xff" * 8)
    fill(tmp_path, "array_record")
    check(tmp_path)


def test_a_writer_that_fails_leaves_nothing_and_another_run_begins_anew(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        fill_half(tmp_path)
    assert not list(tmp_path.glob("*.ids"))
    # Of three processes two were done when the run was killed; it goes on with two.
    fill(tmp_path, "array_record", hosts=3)
    (tmp_path / "part-00002-of-00003.ids").unlink()
    with pytest.raises(UserError, match="of 3 processes, of which 2 were done"):
        file_sets.reader(tmp_path)
    fill(tmp_path, "array_record", hosts=2)
    check(tmp_path)
    # It goes on with another format.
    fill(tmp_path, "files", count=50)
    check(tmp_path, 50)
    assert not list(tmp_path.glob("part-*"))


def test_damaged_parts_are_refused(tmp_path):
    fill(tmp_path, "array_record")
    ids = tmp_path / "part-00000-of-00001.ids"
    whole = ids.read_bytes()
    ids.write_bytes(whole[:-8])
    with pytest.raises(UserError, match="40 records, but 39 ids"):
        file_sets.reader(tmp_path)
    ids.write_bytes(whole[:-3])
    with pytest.raises(UserError, match="cannot be read"):
        file_sets.reader(tmp_path)
    ids.write_bytes(whole)
    (tmp_path / "part-00000-of-00001-00001.array_record").write_bytes(b"no records")
    with pytest.raises(UserError, match="cannot be read"):
        file_sets.reader(tmp_path)


def test_array_records_are_not_written_to_object_stores():
    with pytest.raises(UserError, match="label_format"):
        fill("gs://bucket/labels", "array_record")


@pytest.mark.parametrize("form", FORMATS)
def test_maps_and_cams_come_back(form, tmp_path):
    rng = np.random.default_rng(0)
    maps = {
        name: rng.integers(0, 256, (4, 5), np.uint8)
        for name in ("segmentation", "saliency", "cam_class", "cam_score")
    }
    cam, labels = rng.random((3, 2, 4), np.float32), np.array([0, 1, 0, 1])
    with file_sets.writer(tmp_path, form) as write:
        write("p", pseudo_labels.encode(maps) | cam_files.encode({"cam": cam, "labels": labels}))
    read = file_sets.reader(tmp_path)
    found = pseudo_labels.read(read, "p", tuple(maps))
    for name, array in maps.items():
        np.testing.assert_array_equal(found[name], array)
    assert set(pseudo_labels.read(read, "p")) == {"segmentation", "saliency"}
    np.testing.assert_array_equal(cam_files.read(read, "p"), cam[..., 1::2])
