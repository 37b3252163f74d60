"""How the pictures of a data set are read: by processes, in chunks, and not twice."""

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY, prepare_files
from PIL import Image

from auxseg_jax.data import pictures
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage


def test_a_killed_preparation_is_not_done_again(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK", 1)
    monkeypatch.setattr(pictures, "_LEAST_CHUNKS_FOR_PROCESSES", 100)
    read_once, original = [], pictures._check_chunk

    def killed(*job):
        if len(read_once) == 2:
            raise KeyboardInterrupt
        read_once.append(job[-1].name)
        return original(*job)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_check_chunk", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_files("coco2014_wsss", coco, tmp_path)
    rest = []
    monkeypatch.setattr(
        pictures, "_check_chunk", lambda *job: rest.append(job[-1].name) or original(*job)
    )
    assert len(prepare_files("coco2014_wsss", coco, tmp_path).photos("train")) == 3
    assert len(rest) == 3 and not set(rest) & set(read_once)


@pytest.mark.slow
def test_a_preparation_after_kill_9_does_the_rest(tmp_path, monkeypatch):
    root, chunks = tmp_path / "coco", 24
    photo = io.BytesIO()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(photo, "JPEG")
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 64 * chunks), ("val", 1)):
        (root / f"{split}2014").mkdir()
        entries = [
            {"id": k, "file_name": f"{split}{k:05d}.jpg", "height": 24, "width": 32}
            for k in range(count)
        ]
        for image in entries:
            (root / f"{split}2014" / image["file_name"]).write_bytes(photo.getvalue())
        content = {
            "images": entries,
            "annotations": [],
            "categories": [{"id": 1, "name": "person"}],
        }
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    fields = {
        "builder": "coco2014_wsss",
        "train_split": "train",
        "val_split": "val",
        "cache_dir": str(tmp_path / "cache"),
        "root": str(root),
        "saliency": "none",
    }
    script = tmp_path / "prepare.py"  # A file, because its processes import it.
    script.write_text(
        "from auxseg_jax.data import dataset\n"
        f"if __name__ == '__main__':\n    dataset.prepare(**{fields!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    while not (done := list(tmp_path.glob("cache/coco2014_wsss/*.work/train.*.npz"))):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    jobs, original = [], pictures.parallel
    monkeypatch.setattr(
        pictures,
        "parallel",
        lambda function, left, workers: jobs.extend(left) or original(function, left, workers),
    )
    data = prepare_files("coco2014_wsss", root, tmp_path, saliency="none")
    assert len(data.photos("train")) == 64 * chunks and data.sizes("train") == [(24, 32)] * (
        64 * chunks
    )
    again = {path.name for *_, path in jobs}
    assert 0 < len(again) <= chunks + 1 - len(done) and not again & {path.name for path in done}


def test_a_mended_picture_is_all_that_is_read_again(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK", 1)
    monkeypatch.setattr(pictures, "_LEAST_CHUNKS_FOR_PROCESSES", 100)
    photo = coco / "train2014/COCO_train2014_000000000025.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:-200])
    with pytest.raises(UserError, match="1 fault"):
        prepare_files("coco2014_wsss", coco, tmp_path)
    photo.write_bytes(whole)
    again, original = [], pictures._check_chunk
    monkeypatch.setattr(
        pictures, "_check_chunk", lambda *job: again.append(job[0][0].name) or original(*job)
    )
    data = prepare_files("coco2014_wsss", coco, tmp_path)
    assert again == [photo.stem]
    assert {path.name for path in (tmp_path / "cache/coco2014_wsss").iterdir()} == {
        data.directory.name,
        ".lock",
    }


def die(number):
    os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_a_process_that_dies_is_said():
    with pytest.raises(ValueError, match="a process died while it read pictures"):
        list(pictures.parallel(die, [(1,), (2,)], 2))


def die_at_the_second(photos, *options):
    path = options[-1]
    if photos[0].name.endswith("30"):
        die(0)
    storage.write_bytes(path, b"")
    return []


@pytest.mark.slow
def test_the_photos_at_which_a_process_died_are_named(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_CHUNK", 1)
    monkeypatch.setattr(pictures, "_check_chunk", die_at_the_second)
    with pytest.raises(
        ValueError, match=r"a process died .* at one of the photos COCO_train2014_0\d+ to COCO_"
    ):
        prepare_files("coco2014_wsss", coco, tmp_path)


def test_processes_give_what_one_gives():
    jobs = [(k, 3) for k in range(20)]
    assert list(pictures.parallel(pow, jobs, 2)) == [k**3 for k in range(20)]
