"""The curves of a report, from metrics.jsonl and the figures of the stages."""

from collections.abc import Mapping, Sequence
from typing import Any

from auxseg_jax.report import charts
from auxseg_jax.runs.workdir import Workdir
from auxseg_jax.training import writer

_MOST_POINTS = 400  # Of a line.

_Rows = Sequence[Mapping[str, Any]]


def draw(folder: Workdir, stages: Sequence[str], figures: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns charts as SVG; those of which nothing is known are left out.

    Args:
      folder: the workdir.
      stages: names of the stages.
      figures: {heading: its value of each stage, as text; "" where it is not known}.
    """
    by_phase: dict[str, list[Mapping[str, Any]]] = {}
    for record in writer.read(folder.metrics):
        if {"phase", "step"} <= record.keys():
            by_phase.setdefault(record["phase"], []).append(record)
    last = by_phase.get(stages[-1], []) if stages else []
    parts = sorted({key for row in last for key in row if key.startswith("loss_")})
    curves = [
        charts.Line(heading, [(n, float(value)) for n, value in enumerate(values) if value])
        for heading, values in figures.items()
    ]
    drawn = [
        charts.lines("mIoU a stage, percent", "stage", curves),
        charts.lines("Loss", "step", _of_phases(by_phase, "loss"), is_log=True),
        charts.lines(
            f"Losses of {stages[-1]}" if stages else "",
            "step",
            [_line(name, last, name) for name in parts],
            is_log=True,
        ),
        charts.lines("Learning rate of the backbone", "step", _of_phases(by_phase, "lr")),
    ]
    return list(filter(None, drawn))


def _of_phases(by_phase: Mapping[str, _Rows], key: str) -> list[charts.Line]:
    return [_line(name, rows, key) for name, rows in by_phase.items()]


def _line(name: str, rows: _Rows, key: str) -> charts.Line:
    points = [(row["step"], row[key]) for row in rows if key in row]
    step = -(-len(points) // _MOST_POINTS) or 1
    return charts.Line(name, points[::step])
