"""Metrics against loops, and at their edges: an absent class, an all-ignored photo, ties."""

import numpy as np
import pytest

from auxseg_jax.evaluation import metrics


def slow_iou(prediction, truth, label, miss):
    """IoU of one label; `miss`: 255 in the prediction counts as missed, else it is left out."""
    counts = truth != 255
    if not miss:
        counts &= prediction != 255
    p, t = prediction[counts] == label, truth[counts] == label
    union = (p | t).sum()
    return 100 * (p & t).sum() / union if union else None


def test_both_conventions_for_255(rng):
    truth = rng.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    prediction = np.where(
        rng.random((20, 30)) < 0.6, truth, rng.choice([0, 1, 2, 255], (20, 30))
    ).astype(np.uint8)
    scores = metrics.iou_scores(metrics.confusion(prediction, truth, 4), "abcd")  # d is absent
    out = [slow_iou(prediction, truth, k, False) for k in range(4)]
    miss = [slow_iou(prediction, truth, k, True) for k in range(4)]
    assert out[3] is None and miss[3] is None
    np.testing.assert_allclose(scores.miou, np.mean(out[:3]))
    np.testing.assert_allclose(scores.miou_255_as_miss, np.mean(miss[:3]))
    np.testing.assert_allclose([scores.per_class[name] for name in "abc"], miss[:3])
    assert scores.per_class["d"] is None
    assert scores.miou > scores.miou_255_as_miss


def test_precision_and_recall():
    truth = np.array([[0, 0, 0, 1, 1, 1]], np.uint8)
    prediction = np.array([[0, 0, 255, 1, 255, 0]], np.uint8)
    scores = metrics.iou_scores(metrics.confusion(prediction, truth, 2), "ab")
    np.testing.assert_allclose(scores.precision, 100 * (2 / 3 + 1) / 2)
    np.testing.assert_allclose(scores.recall, 100 * (2 / 3 + 1 / 3) / 2)


def test_an_all_ignored_photo_adds_nothing():
    assert (
        metrics.confusion(np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8), 2).sum() == 0
    )


def test_photos_add_up(rng):
    truth, prediction = (rng.integers(0, 3, (4, 5, 6)).astype(np.uint8) for _ in range(2))
    whole = metrics.confusion(prediction, truth, 3)
    np.testing.assert_array_equal(
        whole, sum(metrics.confusion(p, t, 3) for p, t in zip(prediction, truth, strict=True))
    )


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [(np.zeros((2, 3)), np.zeros((3, 2))), (np.full((2, 2), 7), np.zeros((2, 2)))],
)
def test_bad_labels_are_errors(prediction, truth):
    with pytest.raises(ValueError, match=r"prediction is|labels reach 7"):
        metrics.confusion(prediction.astype(np.uint8), truth.astype(np.uint8), 3)


def test_average_precision(rng):
    np.testing.assert_allclose(
        metrics.average_precision(np.array([3, 2, 1.0]), np.array([1, 0, 1])), 100 * (1 + 2 / 3) / 2
    )
    np.testing.assert_allclose(
        metrics.average_precision(np.zeros(4), np.array([1, 0, 0, 0])), 25
    )  # ties: no order counts
    assert np.isnan(metrics.average_precision(np.ones(3), np.zeros(3)))
    labels = rng.integers(0, 2, (50, 3))
    labels[:, 2] = 0  # a class that does not occur is left out
    assert metrics.mean_average_precision(labels + 0.1 * rng.random(labels.shape), labels) == 100


def test_saliency_score(rng):
    score, errors, curves = metrics.SaliencySums(), [], []
    for _ in range(3):
        saliency, truth = (
            rng.integers(0, 256, (9, 7)).astype(np.uint8),
            rng.choice([0, 1, 4, 255], (9, 7)).astype(np.uint8),
        )
        score.add(saliency, truth)
        counts = truth != 255
        errors.append(np.abs(saliency[counts] / 255 - (truth[counts] > 0)).mean())
        curve = []
        for threshold in range(1, 256):
            selected, wanted = saliency[counts] >= threshold, truth[counts] > 0
            hits = (selected & wanted).sum()
            curve.append((hits / max(selected.sum(), 1), hits / wanted.sum()))
        curves.append(curve)
    precision, recall = np.mean(curves, 0).T
    result = score.result()
    np.testing.assert_allclose(result.saliency_mae, 100 * np.mean(errors))
    np.testing.assert_allclose(
        result.saliency_max_f,
        100 * np.max(1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-12)),
    )
