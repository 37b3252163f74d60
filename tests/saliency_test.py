"""Saliency maps by an ONNX network: a small one written by hand, and the packaged one."""

import importlib.metadata
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from auxseg_jax.data import saliency
from auxseg_jax.errors import UserError
from auxseg_jax.files import images

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number, value):
    """A field of a protocol buffer: an int, text, or a message that is bytes already."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, channels, side):
    shape = b"".join(field(1, field(1, n)) for n in (1, channels, side, side))
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))


@pytest.fixture
def model(tmp_path):
    """The mean over the channels, of a photo of 8 x 8."""
    axes = field(1, "axes") + field(20, 7) + field(8, 1)
    node = field(1, "x") + field(2, "y") + field(4, "ReduceMean") + field(5, axes)
    graph = (
        field(1, node) + field(2, "g") + field(11, tensor("x", 3, 8)) + field(12, tensor("y", 1, 8))
    )
    path = tmp_path / "mean.onnx"
    path.write_bytes(field(1, 8) + field(8, field(2, 13)) + field(7, graph))
    return path


@pytest.fixture
def photos(tmp_path):
    """Dark at the left, bright at the right, one unreadable."""
    folder = tmp_path / "root/JPEGImages"
    folder.mkdir(parents=True)
    for k in range(3):
        plane = np.repeat(np.linspace(0, 255, 40)[None], 24 + k, 0).astype(np.uint8)
        Image.fromarray(np.stack([plane] * 3, -1)).save(folder / f"p{k}.jpg")
    (folder / "p3.jpg").write_bytes(b"no photo")
    return folder


def test_maps_have_the_size_of_their_photo_and_are_not_made_twice(model, photos):
    output = photos.parent / "Saliency"
    paths = sorted(photos.iterdir())
    count, faults = saliency.write_maps(paths, output, str(model))
    assert count == 3 and len(faults) == 1 and "p3.jpg: not a readable image" in faults[0]
    found = images.read_plane(output / "p1.png")
    assert found.shape == (25, 40) and found[:, 0].max() < 10 and found[:, -1].min() > 245
    assert (np.diff(found[12].astype(int)) >= 0).all()
    images.write_grey_png(output / "p1.png", np.zeros((25, 40), np.uint8))
    (output / "p2.png").unlink()
    count, _ = saliency.write_maps(paths, output, str(model))
    assert count == 1 and not images.read_plane(output / "p1.png").any()


def test_the_map_of_a_photo_that_was_replaced_is_made_again(model, photos, tmp_path):
    output, paths = photos.parent / "Saliency", sorted(photos.iterdir())
    saliency.write_maps(paths, output, str(model))
    before = images.read_plane(output / "p0.png")
    turned = Image.open(photos / "p0.jpg").transpose(Image.Transpose.ROTATE_180)
    turned.save(photos / "p0.jpg", quality=95)
    assert saliency.write_maps(paths, output, str(model))[0] == 1
    assert (images.read_plane(output / "p0.png") != before).any()
    assert saliency.write_maps(paths, output, str(model))[0] == 0
    other = tmp_path / "other.onnx"
    other.write_bytes(model.read_bytes() + field(6, "a note"))
    assert saliency.write_maps(paths, output, str(other))[0] == 3


@pytest.mark.slow
def test_a_run_after_kill_9_does_the_rest(model, photos):
    for path in photos.iterdir():
        path.unlink()
    for k in range(600):
        Image.fromarray(np.full((20, 30, 3), k % 256, np.uint8)).save(photos / f"p{k:03d}.png")
    command = [
        sys.executable,
        "-m",
        "auxseg_jax",
        "saliency",
        "--root",
        photos.parent,
        "--model",
        model,
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    output = photos.parent / "Saliency"
    while not (done := list(output.glob("p*.png"))):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    times = {path: path.stat().st_mtime_ns for path in done}
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    count = int(again.stdout.split()[0])
    assert 0 < count <= 600 - len(done)
    assert (
        len(list(output.glob("p*.png"))) == 600
        and {path: path.stat().st_mtime_ns for path in done} == times
    )


def test_several_processes_write_the_same(model, photos, monkeypatch):
    paths = sorted(photos.iterdir())[:3]
    monkeypatch.setattr(saliency, "_PHOTOS_A_JOB", 1)
    for workers in (1, 2):
        saliency.write_maps(paths, photos.parent / str(workers), str(model), workers)
    for path in paths:
        one, two = (
            (photos.parent / folder / f"{path.stem}.png").read_bytes() for folder in ("1", "2")
        )
        assert one == two


def test_maps_do_not_lie_among_the_photos(model, photos):
    before = sorted(photos.iterdir())
    with pytest.raises(UserError, match="maps would lie among them"):
        saliency.write_maps(before, photos.parent / "." / photos.name, str(model), 1)
    assert sorted(photos.iterdir()) == before


def test_what_is_no_model(tmp_path, photos):
    with pytest.raises(UserError, match="there is no file"):
        saliency.write_maps([], tmp_path / "out", str(tmp_path / "absent.onnx"))
    (tmp_path / "broken.onnx").write_bytes(b"\x08")
    with pytest.raises(ValueError, match="is no ONNX network"):
        saliency.write_maps([], tmp_path / "out", str(tmp_path / "broken.onnx"))


def test_the_packaged_network_gives_the_maps_of_the_real_photos(msrc):
    """Those in the folder were made by U2-Net-p too."""
    try:
        model = saliency._packaged()
    except UserError as error:
        assert isinstance(error.__cause__, importlib.metadata.PackageNotFoundError)
        pytest.skip(str(error))
    name = sorted(path.stem for path in (msrc / "JPEGImages").iterdir())[0]
    with Image.open(msrc / "JPEGImages" / f"{name}.jpg") as image:
        found = saliency.saliency(str(model), np.asarray(image.convert("RGB")))
    assert (
        np.abs(found.astype(int) - images.read_plane(msrc / "Saliency" / f"{name}.png")).mean() < 2
    )
