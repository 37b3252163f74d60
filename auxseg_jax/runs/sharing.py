"""Which phases of two runs would leave the same files, and how one run takes them from the other.

A phase is known by a key: a hash of its name, of the fields of the config on which it depends
(`Phase.depends`), of the data, and of the keys of the phases that it needs. Runs of a study whose
configs differ in later phases alone so share the classifier and its CAMs.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping

import ml_collections
from etils import epath

from auxseg_jax import trees
from auxseg_jax.config import declared
from auxseg_jax.files import storage
from auxseg_jax.report import manifest
from auxseg_jax.runs.phase import Phase
from auxseg_jax.runs.workdir import Workdir
from auxseg_jax.training import writer

_NOT_NEEDED = ("checkpoints",)  # Of a phase that is finished.


def keys(config: ml_collections.ConfigDict, phases: Iterable[Phase], digest: str) -> dict[str, str]:
    """Returns the key of each phase.

    Args:
      config: the config of the run.
      phases: its phases, in order.
      digest: `Dataset.digest` of its data.
    """
    fields = trees.flatten(manifest.plain(config))
    values = {
        name.replace("/", "."): value
        for name, value in fields.items()
        if not declared.is_free(name)
    }
    found: dict[str, str] = {}
    for phase in phases:
        used = {
            name: value
            for name, value in values.items()
            if any(name == part or name.startswith(f"{part}.") for part in phase.depends)
        }
        needs = {what: found[name] for what, name in phase.needs.items()}
        content = json.dumps([phase.name, used, needs, digest], sort_keys=True)
        found[phase.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def take(
    wanted: Mapping[str, str], sources: Iterable[tuple[Workdir, Mapping[str, str]]], target: Workdir
) -> list[str]:
    """Takes finished phases from other runs into a workdir that is not begun.

    Files are linked where the file system can, so that they take no space.

    Args:
      wanted: {phase: key} of the workdir's run.
      sources: other runs, each with its {phase: key}.
      target: the workdir.

    Returns:
      The names of the phases that were taken.
    """
    taken = []
    sources = list(sources)
    for name, key in wanted.items():
        if target.done(name).exists():
            continue
        for source, theirs in sources:
            if theirs.get(name) == key and source.done(name).exists():
                _take(name, {*wanted, *theirs}, source, target)
                taken.append(name)
                break
    return taken


def _take(name: str, phases: Collection[str], source: Workdir, target: Workdir) -> None:
    # Folders of phases lie in those of others; each comes by itself, if it is the same.
    inner = {phase.removeprefix(f"{name}/") for phase in phases if phase.startswith(f"{name}/")}
    folder = source.folder(name)
    for entry in folder.iterdir():
        if entry.name not in (*inner, *_NOT_NEEDED, source.done(name).name):
            _link(entry, target.folder(name) / entry.name)
    records = [record for record in writer.read(source.metrics) if record["phase"] == name]
    if records:
        # A kill may have come between these lines and DONE.json.
        others = [record for record in writer.read(target.metrics) if record["phase"] != name]
        writer.write(target.metrics, others + records)
    record = storage.read_json(source.done(name))
    storage.write_json(target.done(name), record | {"taken_from": str(source)})


def _link(source: epath.Path, target: epath.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if storage.is_remote(source):
        source.copy(target, overwrite=True)
        return

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:  # Another disk, or a file system without links.
            shutil.copy2(one, other)

    if target.exists():  # It was being taken when the process was killed.
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link)
    else:
        link(os.fspath(source), os.fspath(target))
