"""Whether a config's fields are those of the functions they configure: asked before anything is read or compiled."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable

import ml_collections

from auxseg_jax import predict, sharding
from auxseg_jax.data import dataset, loader, transforms
from auxseg_jax.models.affinity import TaskAffinity
from auxseg_jax.models.auxsegnet import BACKBONES, DTYPES, AuxSegNet
from auxseg_jax.pseudo import cam, crf, fuse, random_walk, update
from auxseg_jax.training import loop, losses, optimizer

_POSITIVE = (
    *(f"{phase}.{field}" for phase in ("classifier", "stages") for field in ("epochs", "batch_size", "accumulate", "lr")),
    *("stages.count", "augment.crop", "log.log_every", "log.checkpoint_every", "log.keep", "loader.threads"),
    *("eval.batch_size", "eval.megapixels", "eval.max_buckets"),
    *("affinity.block_mib", "model.channels", "optimizer.head_multiplier"),
)
_NOT_NEGATIVE = ("walk.steps", "walk.beta", "optimizer.warmup", "optimizer.clip_norm", "optimizer.weight_decay", "optimizer.power")
_FRACTIONS = (
    *("walk.restart", "label_update.classifier_weight", "label_update.saliency_weight", "label_update.veto", "optimizer.momentum"),
    *("fuse.cam_threshold", "fuse.spill_threshold", "fuse.saliency_threshold", "augment.flip_probability", "augment.jitter", "model.dropout"),
)
_SCALES = ("cam.scales", "label_update.scales", "predict.scales", "post.scales")
_CRFS = ("saliency", "segmentation")
SCALE_PER = ("photo", "batch")
SUPERVISION = ("image_labels", "masks")


def _keywords(function: Callable, *given_elsewhere: str) -> set[str]:
    """Names of the keyword-only parameters, less those that do not come from the config."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - set(given_elsewhere)


def _fields(module: type, *given_elsewhere: str) -> set[str]:
    return {f.name for f in dataclasses.fields(module)} - {"parent", "name", *given_elsewhere}


def _unknown(where: str, found: Iterable[str], wanted: set[str]) -> list[str]:
    return [f"{where}.{name}: there is no such field; there are {', '.join(sorted(wanted))}" for name in sorted(set(found) - wanted)]


def _missing(where: str, found: Iterable[str], wanted: set[str]) -> list[str]:
    return [f"{where}.{name}: missing" for name in sorted(wanted - set(found))]


def _known(builder: str) -> dict[str, set[str]]:
    """Section -> the fields it may and must have."""
    source = dataset.source_of(builder)
    training = {"epochs", "batch_size", "accumulate", "lr"}
    return {
        "mesh": _keywords(sharding.make_mesh),
        "data": _keywords(dataset.prepare) | _keywords(source),
        "loader": _keywords(loader.train_batches),
        "augment": _keywords(transforms.augment, "mean", "std") | {"scale_per"},
        "model": _fields(AuxSegNet, "num_classes", "affinity", "tasks"),
        "pretrained": {"imagenet", "path"},
        "affinity": _fields(TaskAffinity) | {"cross_task", "refine", "normalize_rows"},
        "tasks": {"cls", "sal"},
        "loss": _keywords(losses.total),
        "optimizer": _keywords(optimizer.make_optimizer, "lr"),
        "classifier": training,
        "stages": training | {"count"},
        "log": _keywords(loop.fit),
        "cam": _keywords(cam.multi_scale, "grid"),
        "fuse": _keywords(fuse.fuse),
        "walk": _keywords(random_walk.random_walk),
        "label_update": _keywords(update.updated_labels, "network", "grid", "walk", "fusion", "crf"),
        "crf": {"filter", *_CRFS},
        "post": _keywords(predict.probabilities),
        "predict": _keywords(predict.probabilities),
        "eval": _keywords(loader.PhotoReader, "mean", "std", "grid", "threads", "prefetch", "devices", "share"),
    }


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError that lists every unknown and every missing field, and values that cannot work together."""
    known = _known(config.data.builder)
    faults = []
    for section, wanted in known.items():
        found = config.get(section, {})
        faults += _unknown(section, found, wanted) + _missing(section, found, wanted)
    scalars = {"seed", "supervision", "compilation_cache"}
    faults += [f"{name}: there is no such section" for name in sorted(set(config) - set(known) - scalars)]
    faults += [f"{name}: missing" for name in sorted(scalars - set(config))]
    backbone = dict(config.model.get("backbone", {}))
    if backbone.pop("name", None) in BACKBONES:
        faults += _unknown("model.backbone", backbone, _fields(BACKBONES[config.model.backbone.name]))
    fields = _keywords(crf.mean_field, "filter")
    for use in (use for use in _CRFS if use in config.get("crf", {})):
        faults += _unknown(f"crf.{use}", config.crf[use], fields) + _missing(f"crf.{use}", config.crf[use], fields)
    if not faults:
        values = {f"{section}.{field}": value for section in known for field, value in config[section].items()}
        faults += [f"{name}={values[name]}: must be above 0, and finite" for name in _POSITIVE if not 0 < values[name] < math.inf]
        faults += [f"{name}={values[name]}: must not be below 0" for name in _NOT_NEGATIVE if not values[name] >= 0]
        faults += [f"{name}={values[name]}: must be between 0 and 1" for name in _FRACTIONS if not 0 <= values[name] <= 1]
        faults += [f"{name}={values[name]}: needs factors above 0" for name in _SCALES if not values[name] or min(values[name]) <= 0]
        faults += [f"loss.{name}={value}: must not be below 0" for name, value in config.loss.items() if not value >= 0]
        crfs = {f"crf.{use}.{name}": value for use in _CRFS for name, value in config.crf[use].items()}
        faults += [f"{name}={value}: must be at least 0.05" for name, value in crfs.items() if name.endswith(("_sxy", "_srgb")) and not value >= 0.05]
        faults += [f"{name}={value}: must not be below 0" for name, value in crfs.items() if not value >= 0]
        if config.crf.filter not in crf.FILTERS:
            faults.append(f"crf.filter={config.crf.filter!r} is not one of {', '.join(crf.FILTERS)}")
        if config.model.dtype not in DTYPES:
            faults.append(f"model.dtype={config.model.dtype!r} is not one of {', '.join(DTYPES)}")
        if config.seed < 0:
            faults.append(f"seed={config.seed}: must not be below 0")
        if len(config.augment.scale) != 2 or not 0 < config.augment.scale[0] <= config.augment.scale[1]:
            faults.append(f"augment.scale={config.augment.scale}: needs the least and the largest factor, above 0")
        if not config.model.dilations or min(config.model.dilations) < 1:
            faults.append(f"model.dilations={config.model.dilations}: must be at least 1")
        if config.fuse.spill_threshold < config.fuse.cam_threshold:
            faults.append(f"fuse.spill_threshold={config.fuse.spill_threshold}: must not be below fuse.cam_threshold={config.fuse.cam_threshold}")
        if config.augment.scale_per not in SCALE_PER:
            faults.append(f"augment.scale_per={config.augment.scale_per!r} is not one of {', '.join(SCALE_PER)}")
        if config.supervision not in SUPERVISION:
            faults.append(f"supervision={config.supervision!r} is not one of {', '.join(SUPERVISION)}")
        if config.supervision == "image_labels" and not config.tasks.cls:
            faults.append("tasks.cls=False: without the classification branch there are no CAMs to make labels from (supervision=image_labels)")
    if faults:
        raise ValueError("the config cannot be used:\n  " + "\n  ".join(faults))
