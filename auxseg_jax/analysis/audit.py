"""Whether a run kept its promise: masks served to score, and nothing that was trained saw one.

It reads what the run wrote down: config, plan, oracle.jsonl, the digests of its pseudo labels, and
its figures. It reads no mask.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from auxseg_jax.analysis.findings import FAIL, NOTE, PASS, Finding
from auxseg_jax.config import differences
from auxseg_jax.config.validation import checked
from auxseg_jax.data import cam_files, pseudo_labels
from auxseg_jax.data.dataset import SCORE, SHOW, SUPERVISION, SWEEP, Dataset
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets, set_digest, storage
from auxseg_jax.runs import journal
from auxseg_jax.runs.phase import Phase
from auxseg_jax.runs.phases import TRAIN, VAL
from auxseg_jax.runs.run import every_phase
from auxseg_jax.runs.work import WRITTEN
from auxseg_jax.runs.workdir import CLASSIFIER_CAM, Workdir, enclosing

_AS_GOOD_AS_MASKS = 99.0
"""mIoU, 255 as a miss, from which on pseudo labels are hardly made from image labels."""

_SALIENCY_AS_MASKS = 0.5
"""Mean absolute error, percent, below which saliency maps are hardly predicted."""

_BESIDE = (SCORE, SWEEP, SHOW)
"""What masks may be read for beside the phases. A sweep is judged by itself."""

_LABEL_FIELDS = (
    *("cam", "fuse", "walk", "label_update", "crf.saliency", "crf.filter"),
    *("stages.update_labels", "data.saliency"),
)
"""What decides what a pseudo label is, so a sweep over masks could have chosen it."""


def examine(folder: Workdir) -> Iterator[Finding]:
    """Yields what was found of a run, finished or not.

    Args:
      folder: its workdir.

    Raises:
      UserError: it is no workdir.
    """
    config = checked(folder.read_config())
    folder.classes()  # It says where there is no whole workdir.
    phases = every_phase(config)
    lines = journal.read(folder.oracle)
    data = journal.open_data(folder, config)
    yield _supervision(config)
    yield _finished(folder)
    yield _plan(config, phases)
    yield _reads(config, phases, lines, folder)
    yield _labels(folder, phases, data)
    yield _too_good(config, phases, folder)
    yield _weights(config)
    yield _settings(config)
    yield _sweeps(phases, lines, folder)
    yield _sources(folder, phases)


def _supervision(config: ml_collections.ConfigDict) -> Finding:
    if config.supervision == "image_labels":
        return Finding("supervision", PASS, "image labels")
    return Finding(
        *("supervision", NOTE, "FULLY SUPERVISED: it was trained on masks, and is marked so"),
        "its figures are no figures of weakly supervised learning",
    )


def _finished(folder: Workdir) -> Finding:
    name, done = "phases done", folder.finished_phases()
    if not folder.results.exists():
        text = f"not finished: {len(done)} phases are"
        return Finding(name, NOTE, text, "what follows is of these; audit it again")
    results = storage.read_json(folder.results)
    recorded = results.get("seconds", {}) if isinstance(results, dict) else {}
    lost = sorted(set(recorded) - set(done))
    if lost:
        text = f"{', '.join(lost)}: in {folder.results.name}, and not there"
        return Finding(name, FAIL, text, "somebody took it away, or the workdir is not whole")
    return Finding(name, PASS, f"all {len(done)}")


def _plan(config: ml_collections.ConfigDict, phases: list[Phase]) -> Finding:
    reading = {phase.name for phase in phases if phase.masks}
    after = [phase.name for phase in phases if reading & set(phase.needs.values())]
    if config.supervision != "image_labels":
        return Finding("plan", NOTE, f"{', '.join(after)} need what was made from masks")
    writing = [phase.name for phase in phases if phase.masks and phase.writes]
    if after or writing:
        names = ", ".join(after + writing)
        return Finding("plan", FAIL, f"{names}: made from masks", "the list of phases is wrong")
    text = f"{len(reading)} of {len(phases)} phases read masks; no phase needs what they leave"
    return Finding("plan", PASS, text)


def _reads(
    config: ml_collections.ConfigDict,
    phases: list[Phase],
    lines: list[dict[str, Any]],
    folder: Workdir,
) -> Finding:
    name, of = "masks read", {phase.name: phase for phase in phases}
    splits = {TRAIN: config.data.train_split, VAL: config.data.val_split}
    wrong, counts = [], {}
    for line in lines:
        phase, purpose, split = of.get(line["phase"]), line["purpose"], line["split"]
        if phase is None:
            is_allowed = not line["phase"] and purpose in _BESIDE
        elif purpose == SUPERVISION:
            is_allowed = config.supervision == "masks" and phase.masks == TRAIN
        else:
            is_allowed = bool(phase.masks) and splits[phase.masks] == split and not phase.writes
        where = line["phase"] or "beside the run"
        if not is_allowed:
            wrong.append(f"{where} read those of {split} for {purpose!r} at {line['time']}")
        counts[purpose, split] = counts.get((purpose, split), 0) + 1
    read = [f"{n} times those of {s} to {p}" for (p, s), n in sorted(counts.items())]
    if wrong:
        advice = "a phase that trains or makes labels saw masks: its figures mean nothing"
        return Finding(name, FAIL, "; ".join(wrong), advice)
    scored = [p.name for p in phases if p.masks and folder.done(p.name).exists()]
    silent = sorted(set(scored) - {line["phase"] for line in lines} - set(_taken(folder, phases)))
    if silent:
        text = f"{', '.join(silent)} left no line in {folder.oracle.name}"
        return _without_evidence(name, text, folder)
    return Finding(name, PASS, "; ".join(read) or "none")


def _without_evidence(name: str, text: str, folder: Workdir) -> Finding:
    """Returns NOTE for a run of a version that left none, else FAIL."""
    if "version" in folder.read_manifest():
        return Finding(name, FAIL, text, "somebody took it away, or the workdir is not whole")
    return Finding(name, NOTE, text, "the run is of a version before 0.5")


def _labels(folder: Workdir, phases: list[Phase], data: Dataset | None) -> Finding:
    """Compares pseudo labels and kept CAMs with the digests of then."""
    name, changed, unknown, same = "pseudo labels", [], [], []
    done = {phase.name for phase in phases if folder.done(phase.name).exists()}
    lost = {n for phase in phases if phase.name in done for n in phase.needs.values()} - done
    if lost:
        text = f"{', '.join(sorted(lost))}: not there, although later phases needed it"
        return Finding(name, FAIL, text, "somebody took it away, or the workdir is not whole")
    if data is None:
        text = "not compared, for the prepared data are gone, and with them the list of photos"
        return Finding(name, NOTE, text, "`auxseg prepare` makes them again")
    for phase in phases:
        keys = _keys(phase)
        if not keys or not folder.done(phase.name).exists():
            continue
        files = folder.labels(phase.name)
        if not (files / WRITTEN).exists():
            unknown.append(phase.name)
            continue
        content = storage.read_json(files / WRITTEN)
        written = content.get("digest") if isinstance(content, dict) else None
        try:
            ids = data.ids(data.train_split)
            found = set_digest.digest(file_sets.reader(files), ids, keys)
        except UserError:
            found = ""
        (same if found == written else changed).append(phase.name)
    if changed:
        text = f"{', '.join(changed)}: not as the phase wrote them"
        return Finding(name, FAIL, text, "somebody changed files that stages learn from")
    if unknown:
        return _without_evidence(name, f"{', '.join(unknown)}: there is no {WRITTEN}", folder)
    return Finding(name, PASS, f"as they were written: {', '.join(same) or 'none yet'}")


def _keys(phase: Phase) -> list[str]:
    """Returns the keys of a photo's files that a phase writes; [] of a phase that trains."""
    if phase.name == CLASSIFIER_CAM:
        return [cam_files.KEY]
    planes = [plane.removeprefix("pseudo/") for plane in phase.writes]
    return [pseudo_labels.key(plane) for plane in planes] if "segmentation" in planes else []


def _too_good(config: ml_collections.ConfigDict, phases: list[Phase], folder: Workdir) -> Finding:
    name, wrong = "figures", []
    for phase in phases:
        path = folder.done(phase.name)
        if config.supervision != "image_labels" or not path.exists():
            continue
        figures: Mapping[str, Any] = folder.read_done(phase.name)["result"]
        if figures.get("miou_255_as_miss", 0) >= _AS_GOOD_AS_MASKS:
            wrong.append(f"{phase.name}: labels of mIoU {figures['miou_255_as_miss']:.1f}")
        if phase.masks == TRAIN and figures.get("saliency_mae", 100) < _SALIENCY_AS_MASKS:
            wrong.append(f"{phase.name}: saliency off by {figures['saliency_mae']:.2f}%")
    if wrong:
        advice = "were labels or saliency maps made from the masks?"
        return Finding(name, FAIL, f"as good as the masks: {'; '.join(wrong)}", advice)
    return Finding(name, PASS, "nothing that stages learn is as good as the masks")


def _weights(config: ml_collections.ConfigDict) -> Finding:
    """Looks where the weights come from: other runs may have seen masks."""
    name, path = "weights", config.pretrained.path
    if not path:
        return Finding(name, PASS, "ImageNet's, or none")
    other = enclosing(path)
    if other is None:
        return Finding(name, NOTE, path, "say what these weights were trained on")
    if other.read_config().supervision != "image_labels":
        return Finding(name, FAIL, f"{path} is of a run that was trained on masks")
    return Finding(name, NOTE, f"{path} is of another run", f"audit {other}, too")


def _settings(config: ml_collections.ConfigDict) -> Finding:
    preset, found = differences.from_preset(config)
    changed = [d for d in found if not d.is_free]
    text = ", ".join(f"{d.field}={d.after} ({d.before})" for d in changed) or "none"
    of_labels = [d.field for d in changed if d.field.startswith(_LABEL_FIELDS)]
    text = f"preset {preset}; fields that differ, with the preset's value: {text}"
    if not of_labels:
        return Finding("settings", PASS, text)
    return Finding(
        *("settings", NOTE, text),
        f"{', '.join(of_labels)} decide what a pseudo label is: say how they were chosen",
    )


def _sweeps(phases: list[Phase], lines: list[dict[str, Any]], folder: Workdir) -> Finding:
    name = "sweeps"
    times = [line["time"] for line in lines if line["purpose"] == SWEEP]
    if not times:
        return Finding(name, PASS, "no threshold was swept over masks in this workdir")
    made = [
        folder.read_done(p.name).get("finished", "")
        for p in phases
        if _keys(p) and p.stage is None and folder.done(p.name).exists()
    ]
    text = f"masks were swept at {min(times)}, in this workdir"
    if made and all(made) and min(made) <= min(times):
        return Finding(name, PASS, f"{text}, after the labels were made that it looks at")
    return Finding(name, NOTE, text, "before its labels were made: is a threshold from there?")


def _sources(folder: Workdir, phases: list[Phase]) -> Finding:
    taken = _taken(folder, phases)
    if not taken:
        return Finding("phases taken", PASS, "none: all were run here")
    sources = sorted(set(taken.values()))
    text = f"{', '.join(taken)} were taken from {', '.join(sources)}"
    return Finding("phases taken", NOTE, text, "audit that workdir, too")


def _taken(folder: Workdir, phases: list[Phase]) -> dict[str, str]:
    """Returns {phase: workdir} of the phases that came from another run."""
    found = {}
    copied = folder.read_manifest().get("copied", [])
    for phase in phases:
        if folder.done(phase.name).exists():
            record = folder.read_done(phase.name)
            if "taken_from" in record or phase.name in copied:
                found[phase.name] = record.get("taken_from", "another run")
    return found
