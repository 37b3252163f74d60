"""`auxseg doctor`: what passes here, and that faults are found."""

import json

import numpy as np
import pytest

from auxseg_jax import cli
from auxseg_jax.analysis import doctor, findings, official, speed


def examine(tmp_path, *names, full=False):
    return {finding.name: finding for finding in doctor.examine(tmp_path, full, names)}


def test_this_machine_computes_right(tmp_path):
    names = ("versions", "devices", "memory", "random walk", "dense CRF", "checkpoint")
    found = examine(tmp_path, *names)
    assert tuple(found) == names
    assert found.pop("devices").status == findings.NOTE  # There is no accelerator.
    assert {finding.status for finding in found.values()} == {findings.PASS}
    assert found["versions"].figures["jax"]
    assert found["random walk"].figures["error"] < 1e-6
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
def test_the_recorded_network(tmp_path, precision):
    name = f"network {precision}"
    finding = examine(tmp_path, name)[name]
    assert finding.status == findings.PASS
    # What the precision does to the outputs is seen, and is not all there is.
    assert (max(finding.figures.values()) < 2e-5) == (precision == "highest")


@pytest.mark.slow
def test_speeds(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_PHOTOS", 12)
    found = examine(tmp_path, "train step highest", "loader")
    assert {finding.status for finding in found.values()} == {findings.PASS}
    times = found["train step highest"].figures
    assert times["is_finite"] and times["share"] > 0 and times["flops"] > 1e9
    assert found["loader"].figures["crops_per_second"] > 0


def test_wrong_numbers_fail(tmp_path, monkeypatch):
    errors = {"cls": 1e-3, "cam": 2e-6, "seg": 2e-6, "sal": 0.0, "affinity": 1e-6}
    monkeypatch.setattr(official, "worst_errors", lambda precision: errors)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    found = examine(tmp_path, "network highest", "network bfloat16")
    assert found["network highest"].status == findings.FAIL
    assert "unset NVIDIA_TF32_OVERRIDE=1" in found["network highest"].advice
    assert found["network bfloat16"].status == findings.PASS
    assert findings.end_of(list(found.values())).startswith("FAIL: network highest, in ")


def test_what_raises_fails_and_the_rest_goes_on(tmp_path, monkeypatch):
    def walk(*args, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(doctor.random_walk, "random_walk", walk)
    found = examine(tmp_path, "random walk", "memory")
    assert found["random walk"].status == findings.FAIL
    assert "MemoryError: no room" in found["random walk"].text
    assert found["memory"].status == findings.PASS


def test_the_command(tmp_path, monkeypatch, capsys):
    found = [
        findings.Finding("devices", findings.PASS, "8 x cpu"),
        findings.Finding(
            "loader", findings.FAIL, "no photo", "look there", {"rate": np.float64(1)}
        ),
    ]
    monkeypatch.setattr(doctor, "examine", lambda workdir, full: iter(found))
    path = tmp_path / "doctor.json"
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", f"--output={path}"])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "PASS  devices: 8 x cpu" in out and "look there" in out and "FAIL: loader" in out
    content = json.loads(path.read_text())
    assert content["status"] == findings.FAIL and content["findings"][1]["name"] == "loader"


def test_figures_that_are_not_finite_fail_and_are_written(tmp_path, monkeypatch):
    errors = {"cls": 1e-6, "cam": float("nan"), "seg": 0.0, "sal": 0.0, "affinity": 0.0}
    monkeypatch.setattr(official, "worst_errors", lambda precision: errors)
    found = list(examine(tmp_path, "network highest").values())
    assert found[0].status == findings.FAIL
    content = findings.to_json(found, is_finished=False)
    assert content["status"] == findings.UNFINISHED
    assert (
        json.loads(json.dumps(content, allow_nan=False))["findings"][0]["figures"]["cam"] == "nan"
    )


def test_outputs_of_zero_fail(tmp_path, monkeypatch):
    recorded = dict(np.load(official._FILE))
    errors = {name: float(abs(recorded[name]).max()) for name in doctor._LIMITS["bfloat16"]}
    monkeypatch.setattr(official, "worst_errors", lambda precision: errors)
    assert examine(tmp_path, "network bfloat16")["network bfloat16"].status == findings.FAIL
    assert all(errors[name] > limit for name, limit in doctor._LIMITS["bfloat16"].items())


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    finding = examine(path / "folder", "checkpoint")["checkpoint"]
    assert finding.status == findings.FAIL and "--workdir is" in finding.advice


def test_without_a_device_nothing_else_is_examined(tmp_path, monkeypatch):
    def devices():
        raise AssertionError  # As jax 0.12 does.

    monkeypatch.setattr(doctor.jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    found = examine(tmp_path)
    assert list(found) == ["versions", "devices"]
    assert found["devices"].status == findings.FAIL
    assert "JAX_PLATFORMS=cuda" in found["devices"].text
    assert "unset JAX_PLATFORMS" in found["devices"].advice
