"""Two processes of one run: the numbers of one, and what is left when one of them goes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY, launch, wait_for

from auxseg_jax.devices import hosts, preemption

DEVICES = 4


def start(*arguments):
    """The two processes, with 4 devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = (f"--coordinator=127.0.0.1:{port}", "--processes=2")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    return [
        launch(*arguments, *together, f"--process={index}", XLA_FLAGS=flags) for index in range(2)
    ]


@pytest.mark.slow
def test_two_processes_are_one_run_and_survive_each_other(finished, tmp_path):
    reference, results, config = finished
    workdir = tmp_path / "run"
    command = (
        "--config=configs/tiny.py",
        f"--config.mesh.data={2 * DEVICES}",
        f"--config.data.cache_dir={config.data.cache_dir}",
    )
    command += (f"--config.compilation_cache={config.compilation_cache}", f"--workdir={workdir}")
    log = workdir / "metrics.jsonl"

    def lines():
        return len(log.read_text().splitlines()) if log.exists() else 0

    first, second = start(*command)
    wait_for(lambda: lines() >= 3, first, second)
    second.kill()
    killed = time.monotonic()
    output = first.communicate(timeout=120)[0]
    assert first.returncode != 0 and time.monotonic() - killed < 60
    assert "another task died" in output or "another process of the run is gone" in output, output
    second.communicate()
    logged = lines()

    both = start(*command)
    wait_for(lambda: lines() >= logged + 2, *both)
    both[1].send_signal(signal.SIGTERM)  # one machine is to go: both stop at the same step
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [preemption.EXIT_CODE] * 2, "\n".join(
        outputs
    )
    where = [re.search(r"stopped by SIGTERM (at step \d+|after \S+)", output) for output in outputs]
    assert all(where) and where[0][1] == where[1][1], outputs
    if step := where[0][1].partition("at step ")[2]:
        assert list(workdir.glob(f"*/checkpoints/{step}"))

    logged = lines()
    # One process of 8 devices goes on from what two saved, and then two from what it saved.
    alone = launch(*command)
    wait_for(lambda: lines() > logged, alone)
    alone.send_signal(signal.SIGTERM)
    output = alone.communicate(timeout=120)[0]
    assert alone.returncode == preemption.EXIT_CODE and "goes on" in output, output

    both = start(*command)
    outputs = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(outputs)
    assert "Results, percent" in outputs[0] and "Results, percent" not in outputs[1]
    found = json.loads((workdir / "results.json").read_text())
    for key in ("classifier", "pseudo", "stages", "final", "cam_sweep"):
        for (name, ours), theirs in zip(leaves(found[key]), leaves(results[key]), strict=True):
            assert ours == pytest.approx(theirs[1], abs=0.05), (key, name)  # percent
    assert found["manifest"]["processes"] == 2
    steps = [
        (line["phase"], line["step"]) for line in map(json.loads, log.read_text().splitlines())
    ]
    assert steps == [
        (line["phase"], line["step"])
        for line in map(json.loads, (reference / "metrics.jsonl").read_text().splitlines())
    ]
    names = {path.relative_to(workdir) for path in workdir.rglob("*.png")}
    assert names == {path.relative_to(reference) for path in reference.rglob("*.png")}


def leaves(value, name=""):
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, f"{name}/{key}")
    else:
        yield name, value


def test_one_process_needs_no_others():
    assert (
        hosts.is_first()
        and hosts.share() == (0, 1)
        and hosts.agreed(True)
        and not hosts.agreed(False)
    )
    values = {"a": np.arange(3), "b": 2.5}
    assert hosts.total(values) is values and hosts.concatenated(values["a"]) is values["a"]
    assert hosts.first_alone(lambda: 7) == 7
    with pytest.raises(KeyError):
        hosts.first_alone(lambda: {}["absent"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1", 2, 0), "--coordinator=127.0.0.1 is not host:port"),
        (("127.0.0.1:99999", 2, 0), "is not host:port"),
        (("127.0.0.1:2345", 2, 2), "--process=2 of --processes=2: they count from 0"),
        ((), "name the processes: --coordinator, --processes, --process"),
    ],
)
def test_processes_that_cannot_come_together(arguments, message, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", refuse)
    with pytest.raises(ValueError, match=message):
        hosts.initialize(*arguments)


def test_flags_of_several_processes_go_together():
    command = [
        sys.executable,
        "launch.py",
        "--config=configs/tiny.py",
        "--workdir=unused",
        "--coordinator=127.0.0.1:1",
    ]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (
        ended.returncode == 2
        and "--coordinator, --processes and --process go together" in ended.stderr
    )
