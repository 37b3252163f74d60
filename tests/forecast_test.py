"""The estimate of the time that a run will take."""

import pytest

from auxseg_jax.files import terminal
from auxseg_jax.runs import forecast
from auxseg_jax.runs.phase import Phase


def _train(context, phase):
    del context, phase


def _update(context, phase):
    del context, phase


def _score(context, phase):
    del context, phase


PHASES = [
    Phase("first", _train, ()),
    Phase("labels", _update, ()),
    Phase("score", _score, ()),
    Phase("second", _train, ()),
    Phase("labels again", _update, ()),
    Phase("score again", _score, ()),
]
EFFORT = {"first": 20.0, "labels": 5.0, "second": 40.0, "labels again": 5.0}


@pytest.fixture
def times():
    return forecast.Forecast(PHASES, {phase.name: EFFORT.get(phase.name, 0) for phase in PHASES})


def test_nothing_is_known_before_the_first_steps(times):
    assert not times.is_known and times.left() is None
    times.finish(PHASES[2], 3.0)  # It computes nothing.
    assert times.left() is None


def test_first_steps_tell_of_every_phase(times):
    times.observe(PHASES[0], 7.0, 40.0, 40.0)  # Two seconds a unit.
    # Each program waits for the compiler once: 40, which runs, 10 + 7, 80, 10.
    assert times.left() == 40 + 17 + 80 + 10


def test_finished_phases_tell_of_those_like_them(times):
    times.observe(PHASES[0], 7.0, 40.0, 40.0)
    times.finish(PHASES[0], 50.0)
    times.finish(PHASES[1], 12.0)
    times.finish(PHASES[2], 3.0)
    # The second one trains for twice as many steps; a score takes as long as the other.
    assert times.left() == 100 + 12 + 3
    for phase in PHASES[3:]:
        times.finish(phase, 1.0)
    assert times.left() == 0


def test_a_phase_that_goes_on_has_less_left(times):
    times.observe(PHASES[0], 7.0, 40.0, 4.0)
    assert times.left() == 4 + 17 + 80 + 10


def test_a_resumed_run_knows_by_its_finished_phases(times):
    times.finish(PHASES[0], 40.0)
    assert times.is_known and times.left() == 10 + 80 + 10


def test_steps_are_timed_without_the_compiler(monkeypatch):
    now = iter([0.0, 100.0, *(102.0 + 2 * k for k in range(40))])
    monkeypatch.setattr(forecast.time, "monotonic", lambda: next(now))
    seen = []
    batches = forecast.timed(
        lambda start: iter(range(start, 30)), 30, lambda *said: seen.append(said)
    )
    assert list(batches(0)) == list(range(30))
    assert seen == [(98.0, 60.0, 36.0)]  # 100 - 2; 30 steps of 2 seconds; 18 of them are left.
    assert list(forecast.timed(lambda start: iter(range(5)), 5, seen.append)(0)) == [*range(5)]
    assert len(seen) == 1


def test_a_rate_leaves_the_compiler_out(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress("stage", 3, unit="step") as bar:
        for _ in range(3):
            bar.advance(1)
    assert "stage 3/3 1.0 step/s  [12s, 0s left]" in capsys.readouterr().err
