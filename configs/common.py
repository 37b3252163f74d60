"""What the configs share: every field there is, with the defaults of preset `plus`.

A section is handed, field by field, to the function it configures; a name that the function does not know is an error
before anything is compiled. The README's table says what each field does.
"""

from collections.abc import Iterable

import ml_collections

PRESETS = ("plus", "paper", "official")

# name: its fields, and the parameters that do not train: batch normalisation everywhere, and the first convolution where the authors say so
BACKBONES = {
    "efficientnet_lite0": ({"output_stride": 16, "head": True}, (r"backbone/.*_bn/.*",)),
    "resnet38": ({"remat": False}, (r"backbone/.*bn.*", r"backbone/conv1a/.*")),
    "resnet50": ({"output_stride": 16, "remat": False}, (r"backbone/.*bn.*", r"backbone/conv1/.*")),
    "resnet101": ({"output_stride": 16, "remat": False}, (r"backbone/.*bn.*", r"backbone/conv1/.*")),
}


def with_words(arg: str, file: str, *, backbone: str, others: Iterable[str] = ()) -> tuple[ml_collections.ConfigDict, set[str]]:
    """The config of the words after a file's name, separated by commas, and the words.

    Args:
      arg: a preset, a backbone, and what else the file knows, in any combination.
      file: its name, for the message.
      backbone: where no word names one.
      others: what else it knows.
    """
    words = set(arg.split(",")) - {""}
    known = (*others, *PRESETS, *BACKBONES)
    if unknown := words - set(known):
        raise ValueError(f"{file} knows {', '.join(known)}; not {', '.join(sorted(unknown))}")
    config = get_config(preset_of(words))
    set_backbone(config, _one_of(BACKBONES, words) or backbone)
    return config, words


def preset_of(words: Iterable[str]) -> str:
    """The preset that is among the words, else `plus`."""
    return _one_of(PRESETS, words) or "plus"


def _one_of(names: Iterable[str], words: Iterable[str]) -> str | None:
    found = [name for name in names if name in words]
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} exclude each other")
    return found[0] if found else None


def set_backbone(config: ml_collections.ConfigDict, name: str) -> None:
    """The fields of a backbone, the paper's dilations at its stride, and its frozen parameters."""
    fields, frozen = BACKBONES[name]
    config.model.backbone = {"name": name, **fields}
    config.model.dilations = tuple(rate * 8 // fields.get("output_stride", 8) for rate in (6, 12, 18))
    config.optimizer.frozen = frozen


def get_config(preset: str = "plus") -> ml_collections.ConfigDict:
    """The method on a data set that the caller fills in.

    Args:
      preset: "plus" is AuxSegNet+ with our update of the pseudo labels; "paper" and "official" are AuxSegNet (ICCV 2021) as
        its text and as its code have it (the README has the table).
    """
    if preset not in PRESETS:
        raise ValueError(f"the preset {preset!r} is not one of {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.supervision = "image_labels"  # "masks": the fully supervised run
    config.compilation_cache = "~/.cache/auxseg_jax/xla"
    config.mesh = {"data": -1, "fsdp": 1, "model": 1}
    config.data = {"builder": "", "train_split": "train", "val_split": "val", "cache_dir": "~/.cache/auxseg_jax/data"}
    config.loader = {"threads": 2, "prefetch": 8}
    config.augment = {
        "crop": 321,
        "scale": (0.7, 1.3),
        "scale_per": "photo",
        "flip_probability": 0.5,
        "jitter": 0.3,
        "padding_is_background": False,
    }

    config.model = {
        "backbone": {"name": "", "output_stride": 8},
        "channels": 128,
        "dilations": (6, 12, 18),
        "head_conv": True,
        "dropout": 0.5,
        "dtype": "float32",
    }
    config.pretrained = {"imagenet": True, "path": ""}  # ImageNet weights of the backbone; or a file of weights
    config.affinity = {
        "pairwise": True,
        "unary": True,
        "cross_task": True,
        "refine": "both",
        "whiten": False,
        "scale": False,
        "normalize_rows": False,
        "block_mib": 2048.0,
    }
    config.tasks = {"cls": True, "sal": True}

    config.loss = {"classification": 1.0, "saliency": 1.0, "segmentation": 1.0}
    config.optimizer = {
        "power": 0.9,
        "warmup": 0,
        "clip_norm": 0.0,
        "momentum": 0.9,
        "weight_decay": 1e-5,
        "heads": (r"(cls|seg|sal|cross)_.*",),
        "head_multiplier": 10.0,
        "frozen": (),
    }
    config.classifier = {"epochs": 15, "batch_size": 8, "accumulate": 1, "lr": 1e-3}
    config.stages = {"count": 5, "epochs": 10, "batch_size": 8, "accumulate": 1, "lr": 1e-3}
    config.log = {"log_every": 20, "checkpoint_every": 200, "keep": 2}

    config.cam = {"scales": (0.5, 1.0, 1.5, 2.0), "flip": True}
    config.fuse = {"cam_threshold": 0.2, "spill_threshold": 0.5, "saliency_threshold": 0.06, "empty_is_background": True}
    config.walk = {"beta": 1.0, "steps": 1, "normalize": True, "restart": 0.5}
    config.label_update = {
        "scales": (0.5, 1.0, 1.5),
        "flip": True,
        "classifier_weight": 0.5,
        "renormalize": True,
        "saliency_weight": 0.0,
        "veto": 0.0,
    }
    config.crf = {
        "filter": "lattice",
        "saliency": _crf(0, gaussian=(3.0, 3.0), bilateral=(60.0, 5.0, 5.0)),
        "segmentation": _crf(10, gaussian=(4.0, 3.0), bilateral=(83.0, 5.0, 3.0)),
    }
    config.post = {"scales": (0.5, 1.0, 1.5), "flip": True}
    config.predict = {"scales": (1.0,), "flip": False}
    config.eval = {"batch_size": 8, "megapixels": 4.0, "max_buckets": 4}
    if preset != "plus":
        config.affinity.unary = False
        config.fuse.update({"spill_threshold": config.fuse.cam_threshold, "empty_is_background": False})
        config.walk.update({"normalize": False, "restart": 0.0})
        config.label_update.update({"scales": (1.0,), "flip": False, "classifier_weight": 0.0, "renormalize": False, "saliency_weight": 0.5})
        config.crf.saliency.iterations = 1
    if preset == "paper":
        config.model.head_conv = False
        config.augment.scale = (1.0, 1.0)
    if preset == "official":
        config.augment.update({"scale_per": "batch", "jitter": 0.0, "padding_is_background": True})
        config.optimizer.update({"momentum": 1e-5, "weight_decay": 0.0, "heads": (r"(cls|seg|sal)_.*",)})
        config.classifier.update({"batch_size": 4, "lr": 7e-4})
        config.stages.update({"count": 4, "epochs": 15, "batch_size": 4, "lr": 7e-4})
    return config


def _crf(iterations: int, gaussian: tuple[float, float], bilateral: tuple[float, float, float]) -> dict[str, float]:
    """Fields of a CRF: (sxy, weight) of the Gaussian, (sxy, srgb, weight) of the bilateral kernel."""
    names = ("gaussian_sxy", "gaussian_weight", "bilateral_sxy", "bilateral_srgb", "bilateral_weight")
    return {"iterations": iterations} | dict(zip(names, (*gaussian, *bilateral), strict=True))
