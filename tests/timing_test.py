"""Timing of the loader, the train step and the CRF."""

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from auxseg_jax.analysis import timing


@pytest.mark.slow
def test_training(tmp_path):
    times = timing.time_training(tiny_config(tmp_path))
    rates = (times.loader_photos_per_second, times.step_photos_per_second, times.step_seconds)
    assert min(rates) > 0
    assert 0 < sum(times.operations.values()) <= 100.5


@pytest.mark.slow
def test_crf(tmp_path, rng):
    photo = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(photo)
    config = tiny_config(tmp_path)
    rows = timing.time_crf(config, photo, scales=(1.0,))
    # The updates of this config use no CRF.
    assert [(row.size, row.labels, row.iterations) for row in rows] == [("30x20", 21, 10)]
    config.crf.saliency.iterations = 1
    rows = timing.time_crf(config, photo, scales=(1.0,))
    found = [(row.size, row.labels, row.iterations) for row in rows]
    assert found == [("30x20", 2, 1), ("30x20", 21, 10)]
    assert all(min(row.seconds, row.photos_per_second, row.peak_mib) > 0 for row in rows)
