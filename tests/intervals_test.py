"""Intervals of differences of mIoU."""

import numpy as np
import pytest

from auxseg_jax.evaluation import intervals, metrics

LABELS = 4


@pytest.fixture
def photos(rng):
    """(prediction, truth) of some photos, with 255 in both."""
    choices = [*range(LABELS - 1), 255]  # The last label never comes.
    return [tuple(rng.choice(choices, (2, 9, 7)).astype(np.uint8)) for _ in range(6)]


def pixels(pairs):
    counts = [metrics.confusion(prediction, truth, LABELS) for prediction, truth in pairs]
    return np.stack([intervals.of_confusion(count) for count in counts])


def test_the_mean_is_that_of_the_metrics(photos):
    counts = sum(metrics.confusion(prediction, truth, LABELS) for prediction, truth in photos)
    names = [str(k) for k in range(LABELS)]
    expected = metrics.iou_scores(counts, names).miou_255_as_miss
    assert intervals.mean_iou(pixels(photos).sum(0)) == pytest.approx(expected)


def test_equal_runs_differ_by_nothing(photos):
    found = intervals.compare([pixels(photos)] * 2, [pixels(photos)] * 2)
    assert found == (0, 0, 0) and found.is_noise


def test_a_run_that_is_better_on_every_photo_is_better(rng):
    truth = [rng.integers(0, 3, (9, 7)).astype(np.uint8) for _ in range(20)]
    right = pixels([(plane, plane) for plane in truth])
    wrong = pixels([(np.where(np.arange(7) < 4, plane, 0), plane) for plane in truth])
    found = intervals.compare([right], [wrong])
    assert found.difference == pytest.approx(100 - intervals.mean_iou(wrong.sum(0)))
    assert 0 < found.low < found.difference < found.high and not found.is_noise
    assert intervals.compare([wrong], [right]).high < 0


def test_pairs_matter(rng):
    """Photos differ by far more than the runs: only a paired comparison can see the difference."""
    truth = [np.repeat(np.arange(3, dtype=np.uint8), 30).reshape(9, 10) for _ in range(40)]
    hard = [
        np.where(rng.random((9, 10)) < share, 0, plane)
        for share, plane in zip(np.linspace(0, 1, 40), truth, strict=True)
    ]
    better = [
        np.where(rng.random((9, 10)) < 0.1, plane, guess)
        for guess, plane in zip(hard, truth, strict=True)
    ]
    one, two = (pixels(zip(guess, truth, strict=True)) for guess in (better, hard))
    assert not intervals.compare([one], [two]).is_noise
    shuffled = two[rng.permutation(len(two))]
    assert intervals.compare([one], [shuffled]).is_noise


def test_seeds_that_disagree_are_noise(rng):
    truth = [rng.integers(0, 3, (9, 7)).astype(np.uint8) for _ in range(20)]
    right = pixels([(plane, plane) for plane in truth])
    wrong = pixels([(np.where(np.arange(7) < 4, plane, 0), plane) for plane in truth])
    assert intervals.compare([right, wrong, right], [wrong, right, wrong]).is_noise
    assert not intervals.compare([right] * 3, [wrong] * 3).is_noise


def test_photos_of_all_processes_are_in_the_order_of_their_ids():
    counts = intervals.gather(["b", "a c", "A"], np.arange(18).reshape(3, 2, 3))
    assert counts.ids == ("A", "a c", "b") and counts.pixels[:, 0, 0].tolist() == [12, 6, 0]
