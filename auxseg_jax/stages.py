"""The outer loop: classifier -> CAM -> pseudo labels -> stages of training and update -> evaluation.

Every phase has a folder and leaves DONE.json there, last; a run that was stopped goes on at the first phase without one,
and inside it at the last checkpoint. Workdir:

    config.json, manifest.json, metrics.jsonl, tensorboard/
    classifier/{checkpoints,params,DONE.json}
    cam/pseudo/{segmentation,saliency}/<id>.png        initial pseudo labels, of stage 0
    cam/pseudo/{cam_class,cam_score}/<id>.png          the CAMs they were made from: largest class, its score
    stage_00/{checkpoints,params,DONE.json}            training on the labels of the phase before
    stage_00/val/<id>.png, val/saliency/<id>.png       segmentation and saliency of the validation split
    stage_00/post/<id>.png                             segmentation of the validation split, post-processed
    stage_00/pseudo/{segmentation,saliency}/<id>.png   updated labels, of stage 1
    results.json
"""

import contextlib
import csv
import functools
import glob
import io
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from auxseg_jax import checks, files, hosts, passes, platform, predict, preemption, recipe, sharding, trees
from auxseg_jax.data import dataset as dataset_lib
from auxseg_jax.data import loader
from auxseg_jax.evaluation import metrics, score
from auxseg_jax.models import auxsegnet
from auxseg_jax.pseudo import update
from auxseg_jax.report import manifest
from auxseg_jax.terminal import console
from auxseg_jax.training import checkpoint, loop, optimizer, step
from auxseg_jax.training.writer import Writer

_FREE = ("mesh/", "loader/", "log/", "data/cache_dir", "compilation_cache")
"""Fields that may change when a run goes on: where and how it is computed and written down, not what."""


class Run:
    """What every phase needs: config, data, network, mesh, writer."""

    writer: Writer

    def __init__(self, config: ml_collections.ConfigDict, workdir: epath.Path):
        self.config, self.workdir = config, workdir
        self.mesh: Mesh = sharding.make_mesh(**config.mesh)
        self.local = sharding.local_mesh(self.mesh)
        recipe.check_batch_sizes(config, self.mesh)
        self.data = hosts.first_alone(lambda: dataset_lib.prepare(**config.data))
        if config.supervision == "masks" and not self.data.has_masks(self.data.train_split):
            raise ValueError(f"supervision=masks: the split {self.data.train_split!r} has no pixel labels")
        self.network = recipe.build_network(config, self.data.num_classes)

    def try_out(self) -> None:
        """What would fail only when a phase begins fails here: patterns of parameters, weights that do not fit."""
        shapes = recipe.abstract_params(self.network, self.config)
        optimizer.make_optimizer(shapes, 1, lr=0.0, **self.config.optimizer)
        recipe.load_pretrained(self.config, shapes)

    # Each of these programs is of several phases, and traced and compiled once.

    @functools.cached_property
    def init(self) -> Callable[[jax.Array], dict]:
        """Key -> initialised parameters."""
        return recipe.init_of(self.config, self.network, self.mesh)

    @functools.cached_property
    def stage_step(self) -> tuple[optax.GradientTransformation, Callable]:
        """Optimiser and train step of the stages."""
        shapes, steps = recipe.abstract_params(self.network, self.config), self.steps("stages")
        return recipe.train_step_of(self.config, self.network, shapes, self.mesh, steps)

    @functools.cached_property
    def updated_labels(self) -> Callable[[dict, dict], dict]:
        """Label update of a batch of photos."""
        return passes.jit(recipe.updated_labels_of(self.config, self.network), self.local)

    @functools.cached_property
    def segmentation(self) -> Callable[[dict, dict], dict]:
        """Prediction for a batch of photos."""
        return passes.jit(recipe.segmentation_of(self.config, self.network, show=("saliency",)), self.local)

    @functools.cached_property
    def postprocessed(self) -> Callable[[dict, dict], dict]:
        """Post-processed prediction for a batch of photos."""
        return passes.jit(recipe.segmentation_of(self.config, self.network, post=True), self.local)

    def steps(self, section: str) -> int:
        """Updates of a phase of training."""
        fields = self.config[section]
        return max(math.ceil(fields.epochs * len(self.data.photos(self.data.train_split)) / fields.batch_size), 1)

    def first_params(self) -> dict:
        """Parameters before any training: initialised by the seed, with the weights that the config starts from."""
        return recipe.load_pretrained(self.config, self.init(jax.random.key(self.config.seed)))

    def classifier_params(self) -> dict:
        """Parameters that the classifier phase trained."""
        shapes = recipe.classifier_part(recipe.abstract_params(self.network, self.config))
        return checkpoint.load_params(self.workdir / "classifier" / "params", shapes, self.mesh)

    def stage_params(self, name: str) -> dict:
        """Parameters that a stage left."""
        return checkpoint.load_params(self.workdir / name / "params", recipe.abstract_params(self.network, self.config), self.mesh)

    def reader(self, split: str) -> loader.PhotoReader:
        """Whole photos of a split, this host's share of them."""
        return recipe.make_reader(self.config, self.data.photos(split), self.data.sizes(split), self.local.size, hosts.share())


def run(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> dict[str, Any]:
    """Runs what is left of the whole method under `workdir`; returns what results.json holds.

    Raises:
      ValueError: the config has unknown or missing fields, all listed; or the workdir belongs to another
        config, and then the message says which fields differ; or another process is at work there.
    """
    workdir = epath.Path(workdir).expanduser()
    checks.check(config)
    check_workdir(config, workdir)
    results = workdir / "results.json"
    if results.exists():
        console.print(f"{workdir} is finished; these are its results.")
        return files.read_json(results)
    this = Run(config, workdir)  # before anything is written: a wrong path costs no workdir
    if not (workdir / "config.json").exists():
        this.try_out()
    hosts.wait("tried out")  # no process looks for the config when another one has written it
    if hosts.is_first():
        claim(config, workdir, this.data)
    with _alone(workdir), Writer(workdir) as this.writer:
        outcome = _phases(this)
        _write_once(results, outcome)
    return outcome


def predict_photos(
    workdir: epath.PathLike,
    pattern: str,
    output: epath.PathLike,
    post: bool = False,
    show: Collection[str] = (),
    point: tuple[int, int] | None = None,
) -> tuple[int, list[str]]:
    """Segments the photos that `pattern` names with the last trained stage of `workdir`.

    With `post` the predictions are post-processed: views of config.post, then the dense CRF.

    Writes <output>/<name>.png, indexed with the VOC palette, in the photo's own size, and what `show` asks for: see `predict.segment`;
    and <output>/classes.csv, the name and colour of every label.

    Returns:
      How many, and a line for each photo that cannot be read; the others are done all the same.

    Raises:
      FileNotFoundError: no finished stage in the workdir, or no photo.
      ValueError: two photos of one name, masks that would overwrite photos, something to show that the network has not; or no
        photo can be read.
    """
    workdir = epath.Path(workdir).expanduser()
    stages = sorted(path.parent for path in workdir.glob(f"stage_*/{files.DONE}"))
    if not stages:
        raise FileNotFoundError(f"{workdir} holds no trained stage (stage_*/{files.DONE}); train first: --mode=train")
    paths = sorted(epath.Path(name) for name in glob.glob(os.path.expanduser(pattern), recursive=True))
    if not paths:
        raise FileNotFoundError(f"no file matches --input={pattern!r}")
    written = [epath.Path(output) / f"{path.stem}.png" for path in paths]
    written += [epath.Path(output) / kind / f"{path.stem}{end}" for path in paths for kind in show for end in (".png", ".jpg")]
    overwritten = {path.resolve() for path in paths} & {path.resolve() for path in written}
    if overwritten:
        raise ValueError(f"the masks would overwrite the photos, {min(overwritten)} first; choose another --output")
    config = ml_collections.ConfigDict(files.read_json(workdir / "config.json"))
    checks.check(config)  # of a workdir that an older version wrote
    has = {"overlay": True, "cam": config.tasks.cls, "saliency": config.tasks.sal, "affinity": config.affinity.pairwise}
    if lacking := [name for name in show if not has.get(name)]:
        raise ValueError(f"this network cannot show {', '.join(lacking)}; it can show {', '.join(name for name in has if has[name])}")
    if ("affinity" in show) != (point is not None):
        raise ValueError("--show=affinity and --point=x,y go together")
    photos = predict.PhotoFiles(paths)
    if not photos.sizes:
        raise ValueError("no photo can be read:\n  " + "\n  ".join(photos.faults))
    if point is not None:
        height, width = (min(sizes) for sizes in zip(*photos.sizes, strict=True))
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise ValueError(f"--point={point[0]},{point[1]} is outside a photo; the smallest are {width} wide and {height} high")
    classes = files.read_json(workdir / "manifest.json")["data"]["classes"]
    platform.set_compilation_cache(config.compilation_cache)
    mesh = sharding.make_mesh()
    network = recipe.build_network(config, len(classes) - 1)
    params = checkpoint.load_params(stages[-1] / "params", recipe.abstract_params(network, config), mesh)
    mesh = sharding.local_mesh(mesh)
    reader = recipe.make_reader(config, photos, photos.sizes, mesh.size)
    function = passes.jit(recipe.segmentation_of(config, network, post=post, show=show, point=point), mesh)
    title = f"segmentation by {stages[-1].name}"
    predict.segment(title, function, params, reader, output, mesh, classes)
    files.write_bytes(epath.Path(output) / "classes.csv", _legend(classes).encode())
    return len(photos), photos.faults


def _legend(classes: Sequence[str]) -> str:
    table = io.StringIO()
    rows = ((index, name, f"#{bytes(files.palette()[index]).hex()}") for index, name in enumerate(classes))
    csv.writer(table, lineterminator="\n").writerows([("index", "class", "colour"), *rows])
    return table.getvalue()


def evaluate_folder(config: ml_collections.ConfigDict, predictions: epath.PathLike, split: str | None) -> dict[str, Any]:
    """Scores a folder of PNGs or CAMs of anybody's against the masks of a split of `config.data`, by default the validation split.

    See `score.score_folder`.
    """
    checks.check(config)
    fields, split = dict(config.data), split or config.data.val_split
    if "saliency" in fields:  # of a data set of files: nothing but the split and its masks is needed
        fields |= {"train_split": split, "val_split": split, "saliency": "none"}
    elif split not in (config.data.train_split, config.data.val_split):
        raise ValueError(f"there is no split {split!r}; there are {config.data.train_split} and {config.data.val_split}")
    data = dataset_lib.prepare(**fields)
    return {"split": split} | score.score_folder(predictions, data, split)


def claim(config: ml_collections.ConfigDict, workdir: epath.Path, data: dataset_lib.Dataset) -> None:
    """Writes config.json and manifest.json into a new workdir; refuses one that was begun with other data."""
    path = workdir / "manifest.json"
    if not path.exists():
        done = [*workdir.glob(f"*/{files.DONE}"), *workdir.glob(f"*/*/{files.DONE}")]
        copied = sorted(str(phase.parent.relative_to(workdir)) for phase in done)
        strange = [name for name in copied if files.read_json(workdir / name / files.DONE)["data"] != data.digest]
        if strange:
            raise ValueError(f"{workdir / strange[0]} was made from other data; choose another --workdir, or copy from another run")
        files.write_json(workdir / "config.json", manifest.plain(config))
        files.write_json(path, manifest.collect(config, data) | {"copied": copied})
    elif files.read_json(path)["data"]["digest"] != data.digest:
        raise ValueError(f"the data of {workdir} have changed since it was begun; choose another --workdir")


def check_workdir(config: ml_collections.ConfigDict, workdir: epath.Path) -> None:
    """Refuses a workdir whose config.json differs, but for the fields that may, or one that is none.

    A new workdir may hold phases copied from another run, so that experiments share them; manifest.json names them.
    """
    path = workdir / "config.json"
    ours = manifest.plain(config)
    if not path.exists():
        found = {p.name for p in workdir.iterdir()} if workdir.exists() else set()
        # the last: what a kill leaves of a config.json or manifest.json that was being written
        strange = sorted(name for name in found if not re.fullmatch(r"classifier|cam|stage_\d+|\.(config|manifest)\.json\..*", name))
        if strange:
            raise ValueError(f"{workdir} holds {strange[0]} but no config.json, so it is no workdir; choose another --workdir")
        return
    old, new = ({k: v for k, v in trees.flatten(fields).items() if not k.startswith(_FREE)} for fields in (files.read_json(path), ours))
    missing = object()
    changed = [key for key in sorted(old | new) if old.get(key, missing) != new.get(key, missing)]
    if changed:
        lines = [f"{k.replace('/', '.')}: {old.get(k, '(absent)')!r} there, {new.get(k, '(absent)')!r} now" for k in changed]
        raise ValueError(
            f"{workdir} belongs to a run with another config:\n  " + "\n  ".join(lines) + "\nChoose another --workdir, or delete this one."
        )


def _write_once(path: epath.Path, content: dict[str, Any]) -> None:
    """The first process writes JSON when all are here; all return when it is there."""
    hosts.wait(f"before {path.name}")
    hosts.by_first(lambda: files.write_json(path, content))


@contextlib.contextmanager
def _alone(workdir: epath.Path) -> Iterator[None]:
    """Refuses a workdir that another run works in."""
    with contextlib.ExitStack() as stack:
        try:
            if hosts.is_first():
                stack.enter_context(files.lock(workdir / "config.json", wait=False))
        except BlockingIOError as error:
            raise ValueError(f"another process is at work in {workdir}") from error
        yield


def _phases(this: Run) -> dict[str, Any]:
    config, workdir, data = this.config, this.workdir, this.data
    weak = config.supervision == "image_labels"
    evaluate = {split: data.has_masks(split) for split in (data.train_split, data.val_split)}
    seconds: dict[str, float] = {}
    there: list[str] = []
    outcome: dict[str, Any] = {"classifier": {}, "pseudo": [], "stages": [], "final": {}}

    def phase(name: str, work: Callable[[epath.Path], dict]) -> dict:
        done = workdir / name / files.DONE
        if not hosts.agreed(done.exists()):
            if there:
                console.print(f"{workdir} goes on; there already: {', '.join(there)}", markup=False)
                there.clear()
            started = time.monotonic()
            result = work(workdir / name)
            _write_once(done, {"seconds": round(time.monotonic() - started, 1), "data": data.digest, "result": result})
            if preemption.asked():
                raise preemption.Preempted(f"stopped by SIGTERM after {name}")
        elif not seconds or there:
            there.append(name)
        record = files.read_json(done)
        seconds[name] = record["seconds"]
        return record["result"]

    outcome["classifier"] = phase("classifier", functools.partial(_train_classifier, this))
    labels = workdir / "cam" / "pseudo"
    if weak:
        phase("cam", functools.partial(_initial_labels, this))
    else:
        phase("cam", functools.partial(_labels_from_masks, this))
    if evaluate[data.train_split]:
        scores = phase("cam/score", lambda _: score.score_pseudo(labels, data, data.train_split))
        outcome["pseudo"].append({"stage": "initial"} | scores)
        if weak:
            outcome["cam_sweep"] = phase("cam/sweep", lambda _: score.sweep_cam(labels, data, data.train_split))
    for index in range(config.stages.count):
        name = f"stage_{index:02d}"
        phase(name, functools.partial(_train_stage, this, index=index, labels=labels))
        phase(f"{name}/val", lambda directory, name=name: _segment_val(this, directory, this.segmentation, name, "segmentation"))
        if evaluate[data.val_split]:
            scores = phase(f"{name}/score", lambda _, name=name: score.score_predictions(workdir / name / "val", data, data.val_split))
            phase(f"{name}/post", lambda directory, name=name: _segment_val(this, directory, this.postprocessed, name, "post-processing"))
            post = phase(f"{name}/post_score", lambda _, name=name: score.score_predictions(workdir / name / "post", data, data.val_split))
            outcome["stages"].append({"stage": index} | scores | {"val_miou_post": post["val_miou"]})
        if weak:
            phase(f"{name}/pseudo", functools.partial(_update_labels, this, name=name))
            labels = workdir / name / "pseudo"
            if evaluate[data.train_split]:
                scores = phase(f"{name}/pseudo_score", lambda _, labels=labels: score.score_pseudo(labels, data, data.train_split))
                outcome["pseudo"].append({"stage": index} | scores)
    if outcome["stages"]:
        outcome["final"] = dict(outcome["stages"][-1])
    if not weak:
        outcome["fully_supervised"] = True
    return outcome | {"seconds": seconds, "config": manifest.plain(config), "manifest": files.read_json(workdir / "manifest.json")}


def _train_classifier(this: Run, directory: epath.Path) -> dict[str, Any]:
    config = this.config
    params = this.first_params()
    if config.tasks.cls:
        train = recipe.train_step_of(config, this.network, params, this.mesh, this.steps("classifier"), dense=False)
        params = _fit(this, "classifier", directory, params, "classifier", train, labels=None, phase_seed=0)
    checkpoint.save_params(directory / "params", recipe.classifier_part(params))
    if not config.tasks.cls:
        return {}
    logits, labels = predict.classify("classifier mAP", this.network, params, this.reader(this.data.val_split), this.local)
    return {"map": metrics.mean_average_precision(hosts.concatenated(logits), hosts.concatenated(labels))}


def _train_stage(this: Run, directory: epath.Path, *, index: int, labels: epath.Path) -> dict[str, Any]:
    params = this.stage_params(f"stage_{index - 1:02d}") if index else this.first_params() | this.classifier_params()
    params = _fit(this, f"stage_{index:02d}", directory, params, "stages", this.stage_step, labels, phase_seed=index + 1)
    checkpoint.save_params(directory / "params", params)
    return {}


def _fit(this: Run, name, directory, params, section, train, labels, phase_seed) -> dict:
    """Trains `params` as a section of the config says, by `train_step_of`, and returns them. The seeds of a phase are (seed, phase)."""
    config, batch_size = this.config, this.config[section].batch_size
    transform, train_step = train
    seed = int(np.random.SeedSequence([config.seed, phase_seed]).generate_state(1)[0])
    augmentation = dict(config.augment) | auxsegnet.normalisation(config.model)
    rows, source = sharding.rows_of_host(batch_size, this.mesh), this.data.photos(this.data.train_split)
    batches = functools.partial(loader.train_batches, source, labels, batch_size, rows, seed, options=augmentation, **config.loader)
    state = step.create_state(params, transform, seed, this.mesh)
    state = loop.fit(name, state, train_step, batches, this.steps(section), directory / "checkpoints", this.writer, this.mesh, **config.log)
    return state.params


def _initial_labels(this: Run, directory: epath.Path) -> dict[str, Any]:
    reader = this.reader(this.data.train_split)
    labels_of = passes.jit(recipe.initial_labels_of(this.config, this.network), this.local)
    update.write_labels("CAM and initial labels", labels_of, this.classifier_params(), reader, directory / "pseudo", this.local)
    return {}


def _labels_from_masks(this: Run, directory: epath.Path) -> dict[str, Any]:
    """Fully supervised: the masks of the training split serve as its pseudo labels."""
    for name, mask in this.data.masks(this.data.train_split, hosts.share()):
        salient = ((mask > 0) & (mask != files.IGNORE)).astype(np.uint8) * 255
        files.write_pseudo_labels(directory / "pseudo", name, mask, salient)
    return {}


def _update_labels(this: Run, directory: epath.Path, *, name: str) -> dict[str, Any]:
    reader = this.reader(this.data.train_split)
    params = {"stage": this.stage_params(name), "classifier": this.classifier_params()}
    update.write_labels(f"{name} label update", this.updated_labels, params, reader, directory, this.local)
    return {}


def _segment_val(this: Run, directory: epath.Path, function: Callable, name: str, title: str) -> dict[str, Any]:
    split = this.data.val_split
    predict.segment(f"{name} {title} of {split}", function, this.stage_params(name), this.reader(split), directory, this.local)
    return {}
