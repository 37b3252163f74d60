"""A study on disk, and its runs: rows times seeds, each in a workdir of its own.

spec.json                      what is compared; written first
runs/<row>/seed_<n>/           a workdir
logs/<row>.seed_<n>.txt        what that run printed
failures/<row>.seed_<n>.txt    why it failed; gone when it succeeds
study.json, .md, .html         figures, written anew after every run
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from auxseg_jax import __version__
from auxseg_jax.data import dataset
from auxseg_jax.devices import preemption
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import say
from auxseg_jax.runs import run as run_lib
from auxseg_jax.runs import sharing
from auxseg_jax.runs.workdir import Workdir
from auxseg_jax.studies import definitions

Load = Callable[[Sequence[str]], ml_collections.ConfigDict]
"""Flags of a run -> its config, with every field checked."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      row: name of its row.
      seed: its seed.
      flags: flags of its config.
      workdir: where it works.
    """

    row: str
    seed: int
    flags: Sequence[str]
    workdir: Workdir

    @property
    def name(self) -> str:
        """Its name, as a part of a file's name."""
        return f"{self.row}.seed_{self.seed}"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a study compares.

    Attributes:
      name: of the study, or its file.
      study: title and rows.
      config: name of the config, perhaps with words.
      overrides: flags of all rows.
      seeds: number of seeds.
    """

    name: str
    study: definitions.Study
    config: str
    overrides: Sequence[str]
    seeds: int

    def to_json(self) -> dict[str, Any]:
        """Returns it as spec.json has it, without the number of seeds, which may grow."""
        return {
            "title": self.study.title,
            "rows": {name: dict(fields) for name, fields in self.study.rows.items()},
            "config": self.config,
            "overrides": list(self.overrides),
        }


class StudyFolder:
    """The folder of a study.

    Args:
      path: where.
      spec: what it compares.

    Raises:
      UserError: it holds another study, or is no folder of a study.
    """

    def __init__(self, path: epath.PathLike, spec: Spec):
        self.path, self.spec = epath.Path(path).expanduser(), spec
        content, file = spec.to_json(), self.path / "spec.json"
        if file.exists():
            if storage.read_json(file) != storage.json_like(content):
                raise UserError(
                    f"{self.path} holds another study, or the same with another config; choose "
                    "another --workdir"
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty, and no study; choose another --workdir")

    def __str__(self) -> str:
        return str(self.path)

    def begin(self) -> None:
        """Writes down what is compared."""
        if not (self.path / "spec.json").exists():
            storage.write_json(self.path / "spec.json", self.spec.to_json())

    def runs(self) -> list[Run]:
        """Returns all runs, those of one seed together."""
        spec = self.spec
        return [
            Run(
                row,
                seed,
                definitions.flags(spec.config, spec.overrides, fields, seed),
                Workdir(self.path / "runs" / row / f"seed_{seed}"),
            )
            for seed in range(spec.seeds)
            for row, fields in spec.study.rows.items()
        ]

    def log(self, run: Run) -> epath.Path:
        """What a run prints."""
        return self.path / "logs" / f"{run.name}.txt"

    def failure(self, run: Run) -> epath.Path:
        """Why a run failed, if it did."""
        return self.path / "failures" / f"{run.name}.txt"


def run_all(
    folder: StudyFolder, load: Load, summarise: Callable[[], Any], shard: tuple[int, int] = (0, 1)
) -> int:
    """Does the runs that are left, one after the other.

    Args:
      folder: the study.
      load: see `Load`.
      summarise: called after every run.
      shard: (index, number): of the runs that are left to several processes, those of this one.

    Returns:
      How many runs failed.

    Raises:
      UserError: a row's config cannot be used; or it has changed since a run of it was begun; or
        there are no masks to compare with.
    """
    runs = folder.runs()
    configs = {}
    for run in runs:  # All mistakes before the first hour.
        try:
            configs[run.name] = load(run.flags)
        except UserError as error:
            raise UserError(f"row {run.row}: {error}", error.faults) from error
    for run in runs:
        names = [phase.name for phase in run_lib.every_phase(configs[run.name])]
        run.workdir.check(configs[run.name], names)
    _check_masks(configs)
    folder.begin()
    own = share_of(runs, folder.spec.seeds, shard)
    failed = 0
    for number, run in enumerate(own, 1):
        if run.workdir.results.exists():
            continue
        if run.workdir.is_in_use():
            say(f"run {number} of {len(own)}: {run.row}, seed {run.seed} is at work elsewhere")
            continue
        say(f"run {number} of {len(own)}: {run.row}, seed {run.seed}; see {folder.log(run)}")
        started = time.monotonic()
        try:
            if not run.workdir.config.exists():
                _share(run, runs, configs)
            message = _train(folder, run)
        except (UserError, OSError) as error:  # Of this row's data, say. The others go on.
            message = str(error)
        minutes = (time.monotonic() - started) / 60
        if message:
            failed += 1
            storage.write_bytes(folder.failure(run), message.encode())
            say(f"  failed after {minutes:.1f} minutes: {message}")
        else:
            folder.failure(run).unlink(missing_ok=True)
            say(f"  done in {minutes:.1f} minutes")
        summarise()
    return failed


def share_of(runs: Sequence[Run], seeds: int, shard: tuple[int, int]) -> list[Run]:
    """Returns the runs of a shard. Those of a seed stay together, for they share phases."""
    index, number = shard
    if number <= seeds:
        return [run for run in runs if run.seed % number == index]
    return list(runs[index::number])


def _check_masks(configs: Mapping[str, ml_collections.ConfigDict]) -> None:
    """Raises UserError if the first row whose data can be read has no masks to compare with."""
    for config in configs.values():
        try:
            data = dataset.prepare(**config.data)
        except (UserError, OSError):
            continue  # The run itself will fail, and say so.
        if not (data.has_masks(data.val_split) or data.has_masks(data.train_split)):
            raise UserError("the data have no masks, so a study has nothing to compare")
        return


def _share(run: Run, runs: Sequence[Run], configs: Mapping[str, Any]) -> None:
    """Takes the phases that another run of the study has finished and that would be the same."""
    config = configs[run.name]
    data = dataset.prepare(**config.data)

    def keys(theirs: ml_collections.ConfigDict) -> dict[str, str]:
        return sharing.keys(theirs, run_lib.plan_of(theirs, data), data.digest)

    # Other versions of the package may compute otherwise. A run on other data has other keys, for
    # the fields of the data are in them.
    others = (
        (other.workdir, keys(configs[other.name]))
        for other in runs
        if other is not run
        and other.workdir.manifest.exists()
        and storage.read_json(other.workdir.manifest).get("version") == __version__
    )
    if taken := sharing.take(keys(config), others, run.workdir):
        say(f"  shares {', '.join(taken)}")


def _train(folder: StudyFolder, run: Run) -> str:
    """Trains in a process of its own; returns why it failed, or ""."""
    log = folder.log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "auxseg_jax", "train", *run.flags, f"--workdir={run.workdir}"]
    package = os.fspath(epath.Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path}
        )
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if code in (preemption.EXIT_CODE, -signal.SIGTERM):
        raise preemption.Preempted(f"{run.name} was stopped")
    if not code:
        return ""
    lines = log.read_bytes().decode(errors="replace").strip().splitlines()
    said = [line for line in lines if line.startswith("error: ")] or lines or ["it said nothing"]
    return f"{said[-1].removeprefix('error: ')} (exit status {code})"
