"""The method as a list of phases."""

import pytest

from auxseg_jax import trees
from auxseg_jax.config import declared
from auxseg_jax.configs import common
from auxseg_jax.files import storage
from auxseg_jax.report import manifest
from auxseg_jax.runs import sharing
from auxseg_jax.runs.phases import describe, plan
from auxseg_jax.runs.workdir import Workdir

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
stage_00/explain      | stage_00, cam, classifier_cam | <id>.npz |
stage_00/pseudo_score | stage_00/pseudo           | figures | train
stage_01              | stage_00, stage_00/pseudo | checkpoints, params |
stage_01/val          | stage_01                  | <id>.png, saliency |
stage_01/score        | stage_01/val              | figures | val
stage_01/post         | stage_01                  | <id>.png |
stage_01/post_score   | stage_01/post             | figures | val
stage_01/pseudo       | stage_01, classifier_cam  | segmentation, saliency |
stage_01/explain      | stage_01, stage_00/pseudo, classifier_cam | <id>.npz |
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
            is_free = phase.name in ("classifier", "review") or phase.name.endswith("/explain")
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


def test_without_updates_every_stage_learns_the_initial_labels():
    changed = config(3)
    changed.stages.update_labels = False
    phases = plan(changed, ("train", "val"))
    learned = {phase.name: phase.needs.get("labels") for phase in phases if phase.stage is not None}
    assert {learned[f"stage_0{k}"] for k in range(3)} == {"cam"}
    assert not any("pseudo" in phase.name or "classifier_cam" in phase.name for phase in phases)


def keys_of(changed):
    return sharing.keys(changed, plan(changed, ("train", "val")), "data")


def test_a_phase_is_known_by_the_fields_on_which_it_depends():
    before = keys_of(config(2))
    for field, first in {
        "classifier.lr": "classifier",
        "cam.flip": "cam",
        "label_update.scales": "classifier_cam",
        "affinity.unary": "stage_00",
        "tasks.sal": "stage_00",
        "predict.flip": "stage_00/val",
        "crf.segmentation.iterations": "stage_00/post",
        "walk.beta": "stage_00/pseudo",
    }.items():
        changed = config(2)
        section, _, name = field.rpartition(".")
        target = changed
        for part in section.split("."):
            target = target[part]
        value = target[name]
        if isinstance(value, bool):
            target[name] = not value
        else:
            target[name] = (2.0,) if isinstance(value, tuple) else value + 1
        after = keys_of(changed)
        differing = [phase for phase in before if before[phase] != after.get(phase)]
        assert differing[0] == first, field
        same = [phase for phase in before if phase not in differing]
        assert field.startswith(("classifier", "label_update.scales")) or "classifier" in same


def test_every_field_changes_the_key_of_some_phase():
    """Or a phase would be shared with a run that does something else."""
    fields = trees.flatten(manifest.plain(config(2)))
    names = [name.replace("/", ".") for name in fields if not declared.is_free(name)]
    used = [part for phase in plan(config(2), ("train", "val")) for part in phase.depends]
    # These decide which phases there are.
    planning = {"stages.count", "stages.update_labels"}
    lost = [
        name
        for name in names
        if name not in planning and not any(f"{name}.".startswith(f"{part}.") for part in used)
    ]
    assert not lost


def test_other_data_have_other_keys():
    one, two = (sharing.keys(config(1), plan(config(1), ()), digest) for digest in ("a", "b"))
    assert not set(one.values()) & set(two.values())


def test_what_is_taken_is_the_phase_alone(tmp_path):
    """Folders of phases lie in those of others, and the plan of the target may lack them."""
    source, target = Workdir(tmp_path / "a"), Workdir(tmp_path / "b")
    updated, initial = config(1), config(1)
    initial.stages.update_labels = False
    phases = plan(updated, ())
    for phase in phases:
        storage.write_json(source.done(phase.name), {"result": {}, "seconds": 1.0})
        storage.write_bytes(source.folder(phase.name) / "params/x", b"1")
    storage.write_bytes(source.folder("stage_00/val") / "saliency/a.png", b"2")
    storage.write_bytes(source.metrics, b'{"phase": "stage_00", "step": 1}\n{"phase": "half')
    theirs = sharing.keys(updated, phases, "data")
    wanted = sharing.keys(initial, plan(initial, ()), "data")
    for _ in range(2):  # A kill before DONE.json, and once more.
        taken = sharing.take(wanted, [(source, theirs)], target)
        assert taken == ["classifier", "cam", "stage_00", "stage_00/val", "review"]
        found = {
            path.parent.relative_to(target.path).as_posix()
            for path in tmp_path.glob("b/**/DONE.json")
        }
        assert found == set(taken)
        assert (target.folder("stage_00/val") / "saliency/a.png").read_bytes() == b"2"
        assert target.metrics.read_text().count("stage_00") == 1
        for name in taken:
            target.done(name).unlink()
