"""Thresholds from photos and image labels alone."""

import shutil

import numpy as np
import pytest

from auxseg_jax.analysis import thresholds
from auxseg_jax.data import dataset
from auxseg_jax.errors import UserError
from auxseg_jax.files import images
from auxseg_jax.runs import journal
from auxseg_jax.runs.workdir import Workdir


def test_the_papers_threshold_unless_it_leaves_salient_pixels_out():
    levels = np.arange(256) / 255
    assert thresholds._rule(np.where(levels < 0.6, 0.99, 0.5)) == (0.2, 1.0)
    assert thresholds._rule(np.where(levels < 0.1, 0.99, 0.5)) == (0.1, 1.0)
    assert thresholds._rule(np.full(256, 0.3)) == (0.01, 1.0)


def test_the_oracle_scores_what_fuse_would_make(finished, tmp_path):
    """The figure for the thresholds of the run is that of its own labels."""
    shutil.copytree(finished[0], tmp_path / "run")
    folder = Workdir(tmp_path / "run")
    lines = len(journal.read(folder.oracle))
    found = thresholds.examine(folder, oracle=True)
    initial = finished[1]["pseudo"][0]
    # CAMs are stored in 256 levels, so a pixel near a threshold may be on its other side.
    assert found.present.miou == pytest.approx(initial["miou_255_as_miss"], abs=0.1)
    assert found.best.miou >= max(found.present.miou, found.suggested.miou)
    assert found.regret == found.best.miou - found.suggested.miou
    last = journal.read(folder.oracle)[lines:]
    assert [line["purpose"] for line in last] == ["sweep"]


def test_without_the_oracle_no_mask_is_read(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    folder = Workdir(tmp_path / "run")
    before = folder.oracle.read_text()
    found = thresholds.examine(folder)
    assert found.best is None and found.regret is None and found.present.miou is None
    assert folder.oracle.read_text() == before
    # The share that has a label, by hand.
    data = dataset.prepare(**finished[2].data)
    shares = []
    for name in data.ids("train"):
        score, saliency = (
            images.read_plane(folder.labels("cam") / kind / f"{name}.png")
            for kind in ("cam_score", "saliency")
        )
        if score.any() and (saliency > 127).any():
            shares.append((score[saliency > 127] > 255 * found.present.cam).mean())
    assert found.present.covered == pytest.approx(np.mean(shares))


def test_no_cams(tmp_path, finished):
    shutil.copytree(finished[0], tmp_path / "run")
    folder = Workdir(tmp_path / "run")
    folder.done("cam").unlink()
    with pytest.raises(UserError, match="has no CAMs"):
        thresholds.examine(folder)
