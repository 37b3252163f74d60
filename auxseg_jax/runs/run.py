"""Runs the phases of the method in order, and takes up where a stopped run left off.

Every phase has a folder and leaves DONE.json there, last. A run goes on at the first phase without
one, and inside it at the last checkpoint.
"""

import datetime
import functools
import os
import time
from collections.abc import Mapping
from typing import Any

import ml_collections
from etils import epath

from auxseg_jax.config.validation import checked
from auxseg_jax.data import about, dataset
from auxseg_jax.devices import compilation, hosts, preemption
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.evaluation.scores import to_json
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import first_line, say
from auxseg_jax.report import manifest
from auxseg_jax.report.results import Results
from auxseg_jax.runs import forecast, report
from auxseg_jax.runs.context import Context
from auxseg_jax.runs.phase import Phase
from auxseg_jax.runs.phases import TRAIN, VAL, plan
from auxseg_jax.runs.workdir import Workdir
from auxseg_jax.training.writer import Writer


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> Results:
    """Runs what is left of the whole method under `workdir`.

    Args:
      config: the config of the run.
      workdir: folder of everything that the run writes, and of what it resumes from.

    At SIGTERM the process ends, as any does. A script that wants a checkpoint first, as the command
    line does, calls `devices.preemption.install()`; `train` then raises `preemption.Preempted`.

    Raises:
      UserError: the config has unknown or missing fields or values out of range, all listed; or the
        data cannot be used; or the workdir belongs to another config or other data, and then the
        message says which fields differ; or another process is at work there.
    """
    folder = Workdir(workdir)
    config = checked(config)
    if config.data.train_split == config.data.val_split:
        raise UserError(
            f"data.train_split and data.val_split are both {config.data.val_split!r}; figures of "
            "val would be those of photos that were trained on"
        )
    if not folder.config.exists():
        _check_name(folder)
    folder.check(config, [phase.name for phase in every_phase(config)])
    if folder.results.exists():
        results = _read_results(folder)
        hosts.by_first(lambda: _compare_data(config, folder))
        say(f"{folder} is finished; these are its results.")
        return results
    compilation.set_compilation_cache(config.compilation_cache)
    context = Context(config, folder)  # Nothing is written yet: a wrong path costs no workdir.
    if not folder.config.exists():
        context.try_out()
    for line in about.read(context.data.directory).lines():
        say(line)
    hosts.wait("tried out")  # No process looks for the config after another one has written it.
    if hosts.is_first():
        folder.claim(config, context.data)
    with folder.sole_use(), Writer(folder.metrics, folder.tensorboard) as context.writer:
        results = _run_phases(context)
        _write_once(folder.results, results.to_json())
    return results


def _check_name(folder: Workdir) -> None:
    """Raises UserError where Orbax, which reads a path as a pattern, would lose parameters."""
    path = str(folder) if storage.is_remote(folder.path) else os.path.abspath(folder.path)
    if found := sorted(set(path) & set("[]*?")):
        raise UserError(
            f"{path} holds {' '.join(found)}, and Orbax could not write parameters there; "
            "choose another --workdir"
        )


def _compare_data(config: ml_collections.ConfigDict, folder: Workdir) -> None:
    """Raises UserError if the data of a finished run have changed; data that are gone are said."""
    state = folder.data_state()
    try:
        if state and dataset.is_unchanged(state, **config.data):
            return
    except (UserError, OSError) as error:
        say(f"the data of {folder} were not compared, for they are gone: {first_line(error)}")
        return
    folder.check_data(dataset.prepare(**config.data))


def _read_results(folder: Workdir) -> Results:
    try:
        return Results.from_json(storage.read_json(folder.results))
    except (KeyError, TypeError, AttributeError, UserError) as error:
        message = f"{folder.results} cannot be read ({first_line(error)})"
        raise UserError(f"{message}; delete it, and the same command writes it again") from error


def every_phase(config: ml_collections.ConfigDict) -> list[Phase]:
    """Returns the phases of a run whose splits both have masks to score with."""
    return plan(config, (TRAIN, VAL))


def plan_of(config: ml_collections.ConfigDict, data: dataset.Dataset) -> list[Phase]:
    """Returns the phases of a run: those of `every_phase` that its data allow."""
    splits = {TRAIN: data.train_split, VAL: data.val_split}
    scored = [role for role, split in splits.items() if data.has_masks(split)]
    return plan(config, scored)


def _run_phases(context: Context) -> Results:
    config, workdir = context.config, context.workdir
    results = Results(fully_supervised=config.supervision == "masks")
    finished: list[str] = []
    phases = plan_of(config, context.data)
    times = forecast.make(context, phases)
    context.observe_steps = functools.partial(_observe, times)
    for number, phase in enumerate(phases, 1):
        if not hosts.agreed(workdir.done(phase.name).exists()):
            if finished:
                say(f"{workdir} goes on; there already: {', '.join(finished)}")
                finished.clear()
            spent = f"{sum(results.seconds.values()) / 60:.1f} minutes so far"
            left = f", {_minutes(times.left())} left" if times.is_known else ""
            say(f"phase {number} of {len(phases)}: {phase.name} ({spent}{left})")
            _run_phase(context, phase)
        elif not results.seconds or finished:
            finished.append(phase.name)
        record = storage.read_json(workdir.done(phase.name))
        results.seconds[phase.name] = record["seconds"]
        times.finish(phase, record["seconds"])
        _add_figures(results, phase, record["result"])
    results.config = manifest.plain(config)
    results.manifest = workdir.read_manifest()
    results.manifest.pop("config", None)  # It stands beside it.
    return results


def _observe(times: forecast.Forecast, phase: Phase, *seconds: float) -> None:
    """Says after the first steps of a run how long the rest of it will take."""
    is_news = not times.is_known
    times.observe(phase, *seconds)
    if is_news:
        say(f"by its first steps this run will take {_minutes(times.left())}")


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} minutes" if seconds >= 90 else "a minute or so"


def _run_phase(context: Context, phase: Phase) -> None:
    started = time.monotonic()
    context.journal.phase = phase.name
    figures = phase.work(context, phase)
    record = {
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "memory_mib": mesh_lib.peak_memory(),
        "data": context.data.digest,
        "result": to_json(figures) if figures else {},
    }
    _write_once(context.workdir.done(phase.name), record)
    name = phase.name if phase.stage is None else phase.name.partition("/")[2]
    context.writer.figures(name, phase.stage or 0, record["result"])
    hosts.by_first(lambda: _refresh_report(context))
    if preemption.asked():
        raise preemption.Preempted(f"stopped by SIGTERM after {phase.name}")


def _refresh_report(context: Context) -> None:
    """Writes report.html anew. A fault of the page is no reason to end a run of days."""
    try:
        report.write(context.workdir, context.config)
    except Exception as error:
        say(
            f"report.html could not be written ({type(error).__name__}: {first_line(error)}); "
            f"`auxseg report --workdir={context.workdir}` says more"
        )


def _add_figures(results: Results, phase: Phase, figures: Mapping[str, Any]) -> None:
    if phase.scores and phase.report and figures:
        phase.report(results, phase.stage, phase.scores(**figures))


def _write_once(path: epath.Path, content: dict[str, Any]) -> None:
    """Writes JSON by the first process, when all are here; all return when it is there."""
    hosts.wait(f"before {path.name}")
    hosts.by_first(lambda: storage.write_json(path, content))
