"""The method as a list of phases."""

import pytest

from auxseg_jax.configs import common
from auxseg_jax.runs.phases import describe, plan

PLAN = """
classifier            |                           | checkpoints, params |
cam                   | classifier                | LABELS, pseudo/cam_class, pseudo/cam_score |
cam/score             | cam                       | figures | train
cam/sweep             | cam                       | figures | train
classifier_cam        | classifier                | <id>.npy, options.json |
stage_00              | classifier, cam           | checkpoints, params |
stage_00/val          | stage_00                  | <id>.png, saliency |
stage_00/score        | stage_00/val              | figures | val
stage_00/post         | stage_00                  | <id>.png |
stage_00/post_score   | stage_00/post             | figures | val
stage_00/pseudo       | stage_00, classifier_cam  | segmentation, saliency |
stage_00/pseudo_score | stage_00/pseudo           | figures | train
stage_01              | stage_00, stage_00/pseudo | checkpoints, params |
stage_01/val          | stage_01                  | <id>.png, saliency |
stage_01/score        | stage_01/val              | figures | val
stage_01/post         | stage_01                  | <id>.png |
stage_01/post_score   | stage_01/post             | figures | val
stage_01/pseudo       | stage_01, classifier_cam  | segmentation, saliency |
stage_01/pseudo_score | stage_01/pseudo           | figures | train
"""


def config(stages, weak=True):
    config = common.get_config()
    config.stages.count = stages
    config.supervision = "image_labels" if weak else "masks"
    return config


def test_the_plan():
    text = PLAN.replace("LABELS", "pseudo/segmentation, pseudo/saliency")
    rows = [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]
    assert describe(plan(config(2), ("train", "val"))) == rows


@pytest.mark.parametrize("weak", [True, False])
@pytest.mark.parametrize("scored", [(), ("train",), ("val",), ("train", "val")])
def test_phases_need_only_what_is_there_and_masks_only_serve_to_score(weak, scored):
    before = set()
    for phase in plan(config(3, weak), scored):
        assert set(phase.needs.values()) <= before, phase.name
        before.add(phase.name)
        if weak:
            is_free = phase.name in ("classifier", "review")
            assert bool(phase.masks) == (phase.scores is not None and not is_free)
            assert not phase.masks or (phase.masks in scored and not phase.writes)
    reading = [
        phase.name for phase in plan(config(3, weak), scored) if phase.masks and phase.writes
    ]
    assert reading == ([] if weak else ["cam"])  # the run marked fully supervised


def test_cams_are_kept_only_for_updates_that_use_them():
    alone = config(2)
    alone.label_update.classifier_weight = 0.0
    phases = {phase.name: phase for phase in plan(alone, ())}
    assert "classifier_cam" not in phases
    assert dict(phases["stage_00/pseudo"].needs) == {"weights": "stage_00"}
