"""The work of each phase: functions of the run's context and the phase's row in the plan."""

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator

import numpy as np
from etils import epath

from auxseg_jax.data import (
    buckets,
    cam_files,
    dataset,
    features,
    label_check,
    loader,
    pseudo_labels,
)
from auxseg_jax.data.dataset import SUPERVISION
from auxseg_jax.devices import hosts
from auxseg_jax.evaluation import details, metrics, score, scores
from auxseg_jax.files import file_sets, set_digest, storage
from auxseg_jax.inference import classification, output, passes
from auxseg_jax.pixel_labels import BACKGROUND, IGNORE
from auxseg_jax.runs import build, explained, forecast, kept_cams, readers
from auxseg_jax.runs.context import Context
from auxseg_jax.runs.phase import Phase
from auxseg_jax.training import checkpoint, loop, optimizer, step

WRITTEN = "written.json"
"""Beside pseudo labels and kept CAMs: the digest of the files, as they were written."""

_KEPT = 64
"""Photos of the validation split whose certainty and initial labels are kept."""


def train_classifier(context: Context, phase: Phase) -> scores.ClassifierScore | None:
    """Trains the classification branch alone; without that branch it only leaves parameters."""
    config = context.config
    params = context.first_params()
    if config.tasks.cls:
        steps = context.steps("classifier")
        train = build.train_step(config, context.network, params, context.mesh, steps, dense=False)
        params = _fit(context, phase, params, "classifier", train, labels=None, seed_index=0)
    part = build.classifier_part(params)
    checkpoint.save_params(context.workdir.params(phase.name), part)
    if not config.tasks.cls:
        return None
    reader = context.reader(context.data.val_split)
    logits, labels = classification.classify(
        "classifier mAP", context.network, params, reader, context.local
    )
    logits, labels = hosts.concatenated(logits), hosts.concatenated(labels)
    return scores.ClassifierScore(metrics.mean_average_precision(logits, labels))


def train_stage(context: Context, phase: Phase) -> None:
    """Trains the whole network on pseudo labels, from the stage before or the classifier."""
    if phase.stage:
        params = context.stage_params(phase.needs["weights"])
    else:
        params = context.first_params() | context.classifier_params()
    labels = context.workdir.labels(phase.needs["labels"])
    _check_labels(context, labels, context.config.data.strict)
    seed_index = phase.stage + 1
    params = _fit(context, phase, params, "stages", context.stage_step, labels, seed_index)
    checkpoint.save_params(context.workdir.params(phase.name), params)


def _fit(
    context: Context,
    phase: Phase,
    params: dict,
    section: str,
    train: tuple,
    labels: epath.Path | None,
    seed_index: int,
) -> dict:
    """Trains `params` and returns them.

    Args:
      context: what the run shares.
      phase: the phase.
      params: where it starts.
      section: "classifier" or "stages" of the config.
      train: optimiser and train step.
      labels: the set of pseudo labels, or None.
      seed_index: the seeds of a phase are a function of (config.seed, seed_index).
    """
    transform, train_step = train
    config, mesh = context.config, context.mesh
    sequence = np.random.SeedSequence([config.seed, seed_index])
    seed = int(sequence.generate_state(1)[0])
    photos = context.data.photos(context.data.train_split)
    source = readers.train_source(config, section, photos, labels, mesh, seed)
    batches = functools.partial(loader.train_batches, source, readers.read_options(config))
    observe = functools.partial(context.observe_steps, phase)
    batches = forecast.timed(batches, context.steps(section), observe)
    state = step.create_state(params, transform, seed, mesh)
    schedule = loop.Schedule(
        name=phase.name,
        steps=context.steps(section),
        checkpoint_dir=context.workdir.checkpoints(phase.name),
        lr=build.rates(config, section, context.steps(section)),
        **config.log,
    )
    state = loop.fit(schedule, state, train_step, batches, context.writer, mesh)
    return optimizer.final_params(state.params, state.opt_state)


def make_initial_labels(context: Context, phase: Phase) -> None:
    """Labels the training photos by the classifier's CAMs and the given saliency."""
    params = context.classifier_params()
    reader = context.reader(context.data.train_split)
    title = "CAM and initial labels"
    with _writer(context, context.workdir.labels(phase.name), pseudo_labels.encode) as write:
        passes.run(title, context.initial_labels, params, reader, write, context.local)


def keep_classifier_cams(context: Context, phase: Phase) -> None:
    """Keeps the classifier's share of the CAMs that every label update uses."""
    folder = context.workdir.folder(phase.name)
    hosts.by_first(
        lambda: storage.write_json(folder / kept_cams.OPTIONS, kept_cams.options(context))
    )
    params, reader = context.classifier_params(), context.reader(context.data.train_split)
    with _writer(context, folder, cam_files.encode) as write:
        passes.run("CAMs to keep", context.classifier_cam, params, reader, write, context.local)


def take_labels_from_masks(context: Context, phase: Phase) -> None:
    """Fully supervised: the masks of the training split serve as its pseudo labels."""
    folder = context.workdir.labels(phase.name)
    with _writer(context, folder, pseudo_labels.encode) as write:
        split = context.data.train_split
        for name, mask in context.data.masks(split, SUPERVISION, hosts.share()):
            is_salient = (mask != BACKGROUND) & (mask != IGNORE)
            write(name, {"segmentation": mask, "saliency": is_salient.astype(np.uint8) * 255})


def update_labels(context: Context, phase: Phase) -> None:
    """Labels the training photos by the network of a stage."""
    stage = phase.needs["weights"]
    reader = context.reader(context.data.train_split, kept_cams.reader(context, phase))
    title, params = f"{stage} label update", context.stage_params(stage)
    with _writer(context, context.workdir.labels(phase.name), pseudo_labels.encode) as write:
        passes.run(title, context.updated_labels, params, reader, write, context.local)
    if phase.stage + 1 == context.config.stages.count:  # Nothing learns them.
        _check_labels(context, context.workdir.labels(phase.name), strict=False)


@contextlib.contextmanager
def _writer(
    context: Context, folder: epath.Path, encode: Callable[[dict], dict[str, bytes]]
) -> Iterator[passes.Write]:
    """Gives a function (id, arrays) that writes what `encode` makes of them.

    At the end of the block it is written beside the files what they are: a digest, and of labels
    how many pixels each has.
    """
    form, written = context.config.label_format, set_digest.SetDigest()
    pixels, lock = np.zeros(256, np.int64), threading.Lock()

    def encode_and_write(name: str, arrays: dict[str, np.ndarray]) -> None:
        content = encode(arrays)
        written.add(name, content)
        if "segmentation" in arrays:
            counts = np.bincount(arrays["segmentation"].reshape(-1), minlength=256)
            with lock:
                pixels[:] += counts
        write(name, content)

    with file_sets.writer(folder, form, hosts.share()) as write:
        yield encode_and_write
    total = hosts.total(pixels)
    content = {"digest": set_digest.text_of(hosts.total(written.sums))}
    content |= {"pixels": total.tolist()} if total.any() else {}
    hosts.by_first(lambda: storage.write_json(folder / WRITTEN, content))


def _check_labels(context: Context, folder: epath.Path, strict: bool) -> None:
    """Looks whether a stage could learn from a set of pseudo labels, see `label_check`."""
    path = folder / WRITTEN
    content = storage.read_json(path) if path.exists() else {}
    is_weak = context.config.supervision == "image_labels"
    if "pixels" in content and is_weak:  # Versions before 0.5 wrote none.
        pixels = np.array(content["pixels"], np.int64)
        label_check.check(pixels, context.data, strict)


def explain(context: Context, phase: Phase) -> scores.AffinityScore | None:
    """Keeps, for the report, what the steps of the method make of some training photos.

    Of their affinities it returns figures.
    """
    data, config = context.data, context.config
    sizes = data.sizes(data.train_split)
    bucket_of = buckets.buckets(sizes, config.eval.max_buckets, build.grid(config))
    found = [bucket_of[size] for size in sizes]
    most = collections.Counter(found).most_common(1)[0][0]  # One size is compiled for.
    members = [k for k, bucket in enumerate(found) if bucket == most]
    chosen = [members[k] for k in dataset.evenly(len(members), config.report.photos)]
    photos = data.photos(data.train_split)
    reader = context.reader(data.train_split, kept_cams.reader(context, phase), chosen)
    write = functools.partial(explained.write, context.workdir.folder(phase.name))
    stage = phase.needs["weights"]
    params, title = context.stage_params(stage), f"{stage} step by step"
    passes.run(title, context.explain, params, reader, write, context.local)
    hosts.wait(f"explained by {stage}")
    raws = {photos[k]["id"].decode(): photos[k] for k in chosen}
    # A run that was stopped here may have kept other photos before.
    kept = explained.read(context.workdir.folder(phase.name), raws)
    decoded = {name: features.decode_image(raw["image"]) for name, raw in raws.items()}
    for name, maps in kept.items():
        context.writer.image(f"photos/{name}", phase.stage, explained.draw(decoded[name], maps))
    labels = file_sets.reader(context.workdir.labels(phase.needs["labels"]))
    learned = {
        name: pseudo_labels.read(labels, name, ("segmentation",))["segmentation"] for name in kept
    }
    return explained.score(kept, decoded, learned, params, config)


def predict_val(context: Context, phase: Phase) -> None:
    """Segments the validation photos by a stage.

    Of some, certainty and initial labels are kept, to be scored.
    """
    data, split = context.data, context.data.val_split
    ids = data.ids(split)
    if 0 < data.num_masks(split) < len(ids):
        ids = data.mask_names(split)
    kept = {ids[k] for k in dataset.evenly(len(ids), _KEPT)}
    _predict(context, phase, context.segmentation, "segmentation", kept)


def postprocess_val(context: Context, phase: Phase) -> None:
    """Segments the validation photos by a stage, with views and the CRF."""
    _predict(context, phase, context.postprocessed, "post-processing")


def _predict(
    context: Context, phase: Phase, function: Callable, what: str, kept: Collection[str] = ()
) -> None:
    stage, split = phase.needs["weights"], context.data.val_split
    folder = context.workdir.folder(phase.name)

    def write(name: str, maps: dict[str, np.ndarray]) -> None:
        dropped = () if name in kept else (details.CERTAINTY, details.INITIAL)
        output.write(folder, name, {k: v for k, v in maps.items() if k not in dropped})

    title = f"{stage} {what} of {split}"
    params, reader = context.stage_params(stage), context.reader(split)
    passes.run(title, function, params, reader, write, context.local)


def score_labels(context: Context, phase: Phase) -> scores.PseudoScore:
    """Scores a set of pseudo labels by the masks of the training split."""
    folder = context.workdir.labels(phase.needs["labels"])
    found, behind = score.score_pseudo(folder, context.data, context.data.train_split)
    details.write(context.workdir.folder(phase.name), behind)
    return found


def sweep_cams(context: Context, phase: Phase) -> scores.CamSweep:
    """Sweeps the threshold of the CAMs, an oracle."""
    folder = context.workdir.labels(phase.needs["labels"])
    return score.sweep_cam(folder, context.data, context.data.train_split)


def score_val(context: Context, phase: Phase) -> scores.PredictionScore:
    """Scores predictions for the validation split by its masks."""
    source, workdir = phase.needs["predictions"], context.workdir
    folder, saliency = workdir.folder(source), workdir.saliency(source)
    split = context.data.val_split
    found, behind = score.score_predictions(folder, saliency, context.data, split)
    details.write(context.workdir.folder(phase.name), behind)
    return found
