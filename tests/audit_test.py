"""The audit of a run: whether masks served to score alone."""

import json
import shutil

import numpy as np
import pytest
from conftest import tiny_config

from auxseg_jax import api
from auxseg_jax.analysis import audit
from auxseg_jax.analysis.findings import FAIL, NOTE, PASS
from auxseg_jax.data import dataset
from auxseg_jax.errors import UserError
from auxseg_jax.files import images, storage
from auxseg_jax.runs import journal, work
from auxseg_jax.runs.context import Context
from auxseg_jax.runs.run import train
from auxseg_jax.runs.workdir import Workdir


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished[0], tmp_path / "run")
    return Workdir(tmp_path / "run")


def statuses(folder):
    return {finding.name: finding for finding in audit.examine(folder)}


def test_a_run_that_kept_its_promise(run):
    found = statuses(run)
    assert {finding.status for finding in found.values()} <= {PASS, NOTE}
    for name in ("masks read", "pseudo labels", "phases done"):
        assert found[name].status == PASS
    assert "1 times those of train to sweep" in found["masks read"].text
    assert "stage_01/pseudo" in found["pseudo labels"].text
    assert "after the labels were made" in found["sweeps"].text
    assert "augment.crop=32 (321)" in found["settings"].text


def test_labels_that_were_changed_are_found(run):
    path = run.path / "stage_00/pseudo/segmentation/train_00003.png"
    images.write_label_png(path, 1 - np.minimum(images.read_plane(path), 1))
    found = statuses(run)["pseudo labels"]
    assert found.status == FAIL and found.text.startswith("stage_00/pseudo: ")
    path.unlink()
    assert statuses(run)["pseudo labels"].status == FAIL


def test_masks_that_training_reads_are_found(tmp_path, monkeypatch):
    """A change of the code by which a stage looks at masks leaves a line."""
    original = work.train_stage

    def leaking(context: Context, phase):
        next(context.data.masks(context.data.train_split, dataset.SCORE))
        return original(context, phase)

    monkeypatch.setattr(work, "train_stage", leaking)
    config = tiny_config(tmp_path)
    config.stages.count = 1
    train(config, tmp_path / "run")
    found = statuses(Workdir(tmp_path / "run"))["masks read"]
    assert found.status == FAIL and "stage_00 read those of train for 'score'" in found.text


def test_labels_as_good_as_masks_are_found(run):
    path = run.done("cam/score")
    record = storage.read_json(path)
    record["result"] |= {"miou_255_as_miss": 99.7, "saliency_mae": 0.1}
    storage.write_json(path, record)
    found = statuses(run)["figures"]
    assert found.status == FAIL and "mIoU 99.7" in found.text and "off by 0.10%" in found.text


def test_a_journal_that_is_not_whole_is_found(run):
    lines = run.oracle.read_text().splitlines()
    run.oracle.write_text("".join(f"{line}\n" for line in lines if "cam/score" not in line))
    found = statuses(run)["masks read"]
    assert found.status == FAIL and found.text.startswith("cam/score left no line")
    (run.path / "stage_00/pseudo/written.json").unlink()
    assert statuses(run)["pseudo labels"].status == FAIL
    # Versions before 0.5 wrote neither.
    content = storage.read_json(run.manifest)
    del content["version"]
    storage.write_json(run.manifest, content)
    found = statuses(run)
    assert found["masks read"].status == found["pseudo labels"].status == NOTE
    run.oracle.write_text(f"{lines[0]}\nhalf a li")
    with pytest.raises(UserError, match=r"oracle.jsonl: line 2 is damaged"):
        statuses(run)


def test_a_phase_that_was_taken_away_is_found(run):
    shutil.rmtree(run.path / "cam")
    found = statuses(run)["pseudo labels"]
    assert found.status == FAIL and found.text.startswith("cam: not there")


def test_a_run_that_is_not_finished_is_said(run):
    # Where val has no masks there is a phase that the plan of all phases has not.
    results = json.loads(run.results.read_text())
    results["seconds"]["review"] = 1.0
    run.results.write_text(json.dumps(results))
    shutil.copytree(run.path / "stage_01/score", run.path / "review")
    assert statuses(run)["phases done"].status == PASS
    shutil.rmtree(run.path / "stage_01/score")
    found = statuses(run)["phases done"]
    assert found.status == FAIL and found.text.startswith("stage_01/score: in results.json")
    run.results.unlink()
    found = statuses(run)["phases done"]
    assert found.status == NOTE and "not finished" in found.text


def test_damaged_files_are_named(run):
    written = run.path / "cam/pseudo/written.json"
    for content in ({}, []):
        storage.write_json(written, content)
        assert statuses(run)["pseudo labels"].status == FAIL
    storage.write_json(run.done("stage_01/score"), {"result": {}})
    with pytest.raises(UserError, match=r"stage_01/score/DONE.json is damaged"):
        statuses(run)


def test_weights_of_a_run_on_masks_are_found(run, finished, tmp_path):
    other = tmp_path / "supervised"
    shutil.copytree(finished[0], other)
    for supervision, status in (("masks", FAIL), ("image_labels", NOTE)):
        content = storage.read_json(other / "config.json") | {"supervision": supervision}
        storage.write_json(other / "config.json", content)
        content = storage.read_json(run.config)
        content["pretrained"]["path"] = str(other / "stage_01/params")
        storage.write_json(run.config, content)
        assert statuses(run)["weights"].status == status


def test_scoring_a_folder_of_a_run_leaves_a_line(run, finished):
    config = finished[2].copy_and_resolve_references()
    before = len(journal.read(run.oracle))
    api.evaluate(config, run.path / "stage_01/val")
    last = journal.read(run.oracle)[-1]
    assert len(journal.read(run.oracle)) == before + 1
    assert (last["phase"], last["split"], last["purpose"]) == ("", "val", "score")
    assert statuses(run)["masks read"].status == PASS


def test_a_sweep_before_the_labels_is_said(run):
    lines = [json.loads(line) for line in run.oracle.read_text().splitlines()]
    for line in lines:
        line["time"] = "2000-01-01T00:00:00+00:00"
    run.oracle.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert statuses(run)["sweeps"].status == NOTE


def test_the_fully_supervised_run_is_no_fault_and_is_said(tmp_path):
    config = tiny_config(tmp_path)
    config.supervision, config.stages.count = "masks", 1
    train(config, tmp_path / "run")
    found = statuses(Workdir(tmp_path / "run"))
    assert found["supervision"].status == found["plan"].status == NOTE
    assert found["masks read"].status == PASS and "full supervision" in found["masks read"].text


def test_a_purpose_must_be_a_known_one(finished):
    data = dataset.prepare(**finished[2].data)
    with pytest.raises(ValueError, match="'training' is not one of score"):
        next(data.masks("train", "training"))


def test_no_workdir(tmp_path):
    with pytest.raises(UserError, match="no whole workdir"):
        statuses(Workdir(tmp_path))


def test_lines_of_a_journal(tmp_path):
    written = journal.Journal(tmp_path / "oracle.jsonl")
    written("val", "score", 8)
    written.phase = "cam/score"
    written("train", "score", 16)
    first, second = journal.read(tmp_path / "oracle.jsonl")
    assert (first["phase"], first["photos"], second["phase"]) == ("", "8", "cam/score")
    journal.Journal(tmp_path / "second.jsonl", writes=False)("val", "score", 8)
    assert not (tmp_path / "second.jsonl").exists()
    assert journal.read(tmp_path / "absent") == []
