"""The table of a study: means over seeds, and differences to the first row with their intervals."""

import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import intervals
from auxseg_jax.files import storage
from auxseg_jax.report import charts, pages
from auxseg_jax.report.results import Results
from auxseg_jax.runs import photo_counts
from auxseg_jax.runs.photo_counts import MEASURES
from auxseg_jax.studies.study import Run, StudyFolder


def write(folder: StudyFolder) -> dict[str, Any]:
    """Writes study.json and study.md of the runs that are finished, and returns the first."""
    runs = folder.runs()
    finished = [run for run in runs if run.workdir.results.exists()]
    counts = {run.name: photo_counts.of_run(run.workdir) for run in finished}
    results = {run.name: _results(run) for run in finished}
    rows = {row: [run for run in finished if run.row == row] for row in folder.spec.study.rows}
    first = next(iter(rows.values()))
    table = {
        row: {
            "seeds": [run.seed for run in members],
            "stages": _stages([results[run.name] for run in members]),
            "minutes": _rounded(sum(results[run.name].seconds.values()) / 60 for run in members),
            **{
                measure: _cell(measure, members, first, counts)
                for measure in MEASURES
                if any(measure in counts[run.name] for run in members)
            },
        }
        for row, members in rows.items()
    }
    content = folder.spec.to_json() | {
        "study": folder.spec.name,
        "workdir": str(folder),
        "seeds": folder.spec.seeds,
        "runs": {run.name: _state(folder, run) for run in runs},
        "table": table,
    }
    storage.write_json(folder.path / "study.json", content)
    storage.write_bytes(folder.path / "study.md", markdown(content).encode())
    storage.write_bytes(folder.path / "study.html", page(content).encode())
    return content


def _results(run: Run) -> Results:
    try:
        return Results.from_json(storage.read_json(run.workdir.results))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.workdir.results} is damaged ({error!r}); delete it, and the same command writes "
            "it again"
        ) from error


def _cell(
    measure: str,
    members: Sequence[Run],
    first: Sequence[Run],
    counts: Mapping[str, Mapping[str, intervals.Counts]],
) -> dict[str, Any]:
    of_seed = {
        run.seed: counts[run.name][measure] for run in members if measure in counts[run.name]
    }
    values = [float(intervals.mean_iou(c.pixels.sum(0))) for c in of_seed.values()]
    cell: dict[str, Any] = {
        "mean": round(statistics.mean(values), 2),
        "sd": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        "values": _rounded(values),
    }
    others = {run.seed: counts[run.name].get(measure) for run in first}
    common = [
        seed for seed in of_seed if others.get(seed) and others[seed].ids == of_seed[seed].ids
    ]
    if members is not first and common:
        found = intervals.compare(
            [of_seed[seed].pixels for seed in common], [others[seed].pixels for seed in common]
        )
        cell["difference"] = {
            **{name: round(value, 2) for name, value in found._asdict().items()},
            "within_noise": found.is_noise,
            "seeds": len(common),
        }
    return cell


def _stages(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Returns the mean val mIoU of each stage that all runs have."""
    count = min((len(result.stages) for result in results), default=0)
    return [
        {"stage": k, "val": round(statistics.mean(r.stages[k].score.val_miou for r in results), 2)}
        for k in range(count)
    ]


def _state(folder: StudyFolder, run: Run) -> dict[str, str]:
    if run.workdir.results.exists():
        return {"state": "done"}
    if folder.failure(run).exists():
        return {"state": "failed", "message": folder.failure(run).read_text()}
    return {"state": "begun" if run.workdir.config.exists() else "waiting"}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 2) for value in values]


def markdown(content: Mapping[str, Any]) -> str:
    """Returns the table of a study as Markdown, with the command that made it.

    Args:
      content: of study.json.
    """
    headings, rows = cells(content)
    lines = [f"# {' '.join(content['title'].split())}", "", f"`{command(content)}`", ""]
    lines += [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *notes(content)]
    return "\n".join(lines) + "\n"


def page(content: Mapping[str, Any]) -> str:
    """Returns the table of a study as a page.

    Args:
      content: of study.json.
    """
    headings, rows = cells(content)
    series = [
        charts.Line(name, [(entry["stage"], entry["val"]) for entry in row["stages"]])
        for name, row in content["table"].items()
    ]
    minutes = {name: row["minutes"] for name, row in content["table"].items()}
    fields = [
        {
            "name": name,
            "text": " ".join(f"{key}={value}" for key, value in row.items()) or "(as configured)",
            "minutes": ", ".join(f"{value:.0f}" for value in minutes[name]),
        }
        for name, row in content["rows"].items()
    ]
    return pages.render(
        "study.html",
        title="Study · auxseg_jax",
        heading=content["title"],
        command=command(content),
        headings=headings,
        rows=[[_sortable(cell) for cell in row] for row in rows],
        notes=notes(content),
        charts=list(filter(None, [charts.lines("val mIoU of each stage", "stage", series)])),
        fields=fields,
    )


def _sortable(cell: str) -> dict[str, str]:
    """Returns a cell, with the number that it begins with."""
    match = re.match(r"[+-]?\d+(\.\d+)?", cell)
    return {"text": cell, "number": match[0] if match else ""}


def command(content: Mapping[str, Any]) -> str:
    """Returns the command of a study."""
    flags = [f"--config={content['config']}", *content["overrides"]]
    ends = [f"--seeds={content['seeds']}", f"--workdir={content['workdir']}"]
    return shlex.join(["auxseg", "study", f"--study={content['study']}", *flags, *ends])


def cells(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the rows of the table of a study, as text."""
    table = content["table"]
    present = [m for m in MEASURES if any(m in row for row in table.values())]
    first = next(iter(table))
    headings = ["row", "seeds"]
    for measure in present:
        headings += [MEASURES[measure], f"less that of {first}"]
    rows = []
    for name, row in table.items():
        line = [name, str(len(row["seeds"]))]
        for measure in present:
            line += _texts(row.get(measure))
        rows.append(line)
    return headings, rows


def _texts(cell: Mapping[str, Any] | None) -> list[str]:
    if cell is None:
        return ["", ""]
    spread = "" if cell["sd"] is None else f" ± {cell['sd']:.1f}"
    value = f"{cell['mean']:.1f}{spread}"
    found = cell.get("difference")
    if found is None:
        return [value, ""]
    noise = ", within noise" if found["within_noise"] else ""
    span = f"[{found['low']:+.1f}, {found['high']:+.1f}]"
    return [value, f"{found['difference']:+.1f} {span}{noise}"]


def notes(content: Mapping[str, Any]) -> list[str]:
    """Returns what a reader must know beside the table."""
    lines = [
        "Percent; mean ± standard deviation over the seeds. In brackets: 95% interval of the "
        "difference by the paired bootstrap over photos and seeds. It is within noise where the "
        "interval holds 0. Few seeds make intervals too narrow.",
    ]
    if any(len(row["seeds"]) == 1 for row in content["table"].values()):
        lines.append("With one seed an interval says nothing of other seeds.")
    for name, run in content["runs"].items():
        if run["state"] == "failed":
            lines.append(f"{name} failed: {run['message']}")
    left = [name for name, run in content["runs"].items() if run["state"] in ("waiting", "begun")]
    if left:
        lines.append(f"Not finished: {', '.join(left)}.")
    return lines
