"""Scoring of anybody's folders, through `launch.py --mode=evaluate` and below it."""

import numpy as np
import pytest
from PIL import Image

from auxseg_jax import files, stages
from auxseg_jax.data import dataset
from auxseg_jax.evaluation import cams, metrics
from configs import demo


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = demo.get_config()
    config.data.update({"sizes": ((24, 32), (32, 24)), "train_photos": 5, "val_photos": 4, "cache_dir": str(tmp_path_factory.mktemp("data"))})
    return config


@pytest.fixture(scope="module")
def truths(config):
    data = dataset.prepare(**config.data)
    return {split: dict(data.masks(split)) for split in ("train", "val")}


def test_label_pngs(config, truths, tmp_path, rng):
    for split in ("train", "val"):
        counts = 0
        for name, truth in truths[split].items():
            labels = np.where(rng.random(truth.shape) < 0.7, truth, rng.choice([0, 1, 255], truth.shape)).astype(np.uint8)
            files.write_label_png(tmp_path / f"{name}.png", labels)
            counts = counts + metrics.confusion(labels, truth, 5)
        found = stages.evaluate_folder(config, tmp_path, None if split == "val" else split)
        expected = metrics.iou_scores(counts)
        assert found["split"] == split and found["photos"] == len(truths[split])
        assert list(found["per_class"]) == ["background", "disc", "square", "triangle", "cross"]
        for key in ("miou", "miou_255_as_miss", "precision", "recall"):
            assert found[key] == pytest.approx(expected[key])
    assert found["miou"] > found["miou_255_as_miss"]


def cam_of(truth, index, strength):
    return np.where(truth == index, strength, 0.1).astype(np.float32)


@pytest.mark.parametrize("form", ["psa", "irn", "npz", "npz keys"])
def test_cams(config, truths, tmp_path, form):
    """A class counted from 0 on disk is one counted from 1 in masks; a CAM of 0.62 is there up to a threshold of 0.6."""
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
    found = stages.evaluate_folder(config, tmp_path, "val")
    assert found["oracle"] and found["best_miou"] == 100 == found["miou"]["0.6"] and found["miou"]["0.65"] < 50 and found["miou"]["0.05"] < 100


class Tensor:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "there is no CAM"),
        ({7: np.zeros((4, 4))}, "classes 7 to 7; there are 4, counted from 0"),
        ({0: np.zeros(4)}, r"CAMs of shape \(4,\)"),
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
        cams.read(tmp_path / "a.npy", 4)
    assert not capsys.readouterr().out


def test_faults_are_named(config, truths, tmp_path):
    names = list(truths["val"])
    with pytest.raises(ValueError, match=r"4 of the 4 photos of val have no .png there"):
        stages.evaluate_folder(config, tmp_path, "val")
    for name in names:
        files.write_label_png(tmp_path / f"{name}.png", truths["val"][name])
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / f"{names[1]}.png")
    with pytest.raises(ValueError, match=rf"{names[1]}.png cannot be read as a label map: expected an 8-bit grey or indexed PNG"):
        stages.evaluate_folder(config, tmp_path, "val")
    files.write_label_png(tmp_path / f"{names[1]}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match=rf"{names[1]}: prediction is \(2, 2\), truth"):
        stages.evaluate_folder(config, tmp_path, "val")
