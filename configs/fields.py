"""Every field of a config: its default (preset `plus`), its range, and what it does.

`docs/configuration.md` is made from this table (`make docs`), and so are the checks of a config. A
new field needs an entry here and the code that uses it. Its default must do what was done without
it, because workdirs of older versions get it; else `before` says what did.
"""

from auxseg_jax.config.field import (
    ABOVE_0,
    BELOW_1,
    FRACTION,
    MEGAPIXELS,
    NOT_NEGATIVE,
    PATTERNS,
    SCALE_RANGE,
    SCALES,
    SHARE,
    SIZES,
    Field,
    all_at_least,
    at_least,
    between,
    one_of,
)
from auxseg_jax.data.planes import GIVEN
from auxseg_jax.models.precision import PRECISIONS

_KERNEL = at_least(0.05)


def _phase(epochs: int) -> dict[str, Field]:
    return {
        "epochs": Field(epochs, "Passes over the training photos.", ABOVE_0),
        "min_steps": Field(
            0, "Updates at least, where few photos make few of them an epoch.", NOT_NEGATIVE
        ),
        "batch_size": Field(8, "Photos a step, over all devices.", ABOVE_0),
        "accumulate": Field(
            1,
            "Parts of a batch that are done one after the other, for memory. Their gradients add "
            "up to that of the batch.",
            ABOVE_0,
        ),
        "lr": Field(1e-3, "Learning rate of the backbone.", ABOVE_0),
    }


def _views(scales: tuple[float, ...], flip: bool, what: str) -> dict[str, Field]:
    return {
        "scales": Field(scales, f"Scales of the views of {what}.", SCALES),
        "flip": Field(flip, "Whether each view is also seen mirrored."),
    }


def _windows(what: str) -> Field:
    text = f"{what} larger photos through overlapping windows of the size of the training crop."
    return Field(True, text, before=False)


def _crf(
    iterations: int, gaussian: tuple[float, float], bilateral: tuple[float, float, float]
) -> dict[str, Field]:
    return {
        "iterations": Field(iterations, "Iterations of mean field; 0 turns it off.", NOT_NEGATIVE),
        "gaussian_sxy": Field(
            gaussian[0], "Standard deviation of the kernel of position, pixels.", _KERNEL
        ),
        "gaussian_weight": Field(gaussian[1], "Weight of that kernel.", NOT_NEGATIVE),
        "bilateral_sxy": Field(
            bilateral[0],
            "Standard deviation of position of the kernel of position and colour, pixels.",
            _KERNEL,
        ),
        "bilateral_srgb": Field(
            bilateral[1], "Its standard deviation of colour, levels of 0..255.", _KERNEL
        ),
        "bilateral_weight": Field(bilateral[2], "Weight of that kernel.", NOT_NEGATIVE),
    }


SECTIONS: dict[str, dict[str, Field]] = {
    "": {
        "seed": Field(
            0,
            "Seed of everything random. Two runs of one seed on one machine give the same numbers.",
            between(0, 2**63 - 1),
        ),
        "supervision": Field(
            "image_labels",
            "`image_labels`, or `masks` for the fully supervised run, which has no updates.",
            one_of("image_labels", "masks"),
        ),
        "compilation_cache": Field(
            "~/.cache/auxseg_jax/xla",
            "Folder of compiled programs, kept between runs; empty turns it off.",
            free=True,
        ),
        "label_format": Field(
            "files",
            "How pseudo labels and kept CAMs are stored: `files`, which any tool reads, or "
            "`array_record`, a few files a process (docs/scale.md).",
            one_of("files", "array_record"),
            free=True,
        ),
    },
    "mesh": {
        "data": Field(-1, "Devices that share a batch; -1: all that are left.", free=True),
        "fsdp": Field(1, "Devices that share a batch and also the parameters.", ABOVE_0, free=True),
        "model": Field(1, "Devices that share the rows of the affinities.", ABOVE_0, free=True),
    },
    "data": {
        "builder": Field("", "Which data set; see the table below."),
        "train_split": Field("train", "Split to train on."),
        "val_split": Field("val", "Split to evaluate on."),
        "cache_dir": Field(
            "~/.cache/auxseg_jax/data", "Folder of the prepared copies of data sets.", free=True
        ),
        "megapixels": Field(
            0.0,
            "Photos of more megapixels are scaled down to so many when data are prepared, with "
            "their maps and masks, and when files are segmented; 0: never, but files of more than "
            "4, or of more than 65,536 cells of features, are segmented at that size.",
            MEGAPIXELS,
        ),
        "strict": Field(
            True,
            "Refuse data whose parts contradict one another (masks of 0 and 255, classes in "
            "another order, ...); otherwise it is only said.",
            free=True,
        ),
        "prepared": Field(
            "",
            "A prepared copy, as `auxseg prepare` names it, instead of the files of the data set.",
            free=True,
        ),
    },
    "loader": {
        "threads": Field(
            0,
            "Threads that decode and augment; 0: one for each CPU core.",
            NOT_NEGATIVE,
            free=True,
        ),
        "prefetch": Field(8, "Examples or batches that wait.", NOT_NEGATIVE, free=True),
    },
    "augment": {
        "crop": Field(321, "Side of a training crop, pixels.", at_least(8)),
        "scale": Field((0.7, 1.3), "Range of the resize factor.", SCALE_RANGE),
        "scale_per": Field(
            "photo",
            "Whether each `photo` or each `batch` draws its factor.",
            one_of("photo", "batch"),
        ),
        "flip_probability": Field(0.5, "Probability of a mirror image.", FRACTION),
        "jitter": Field(0.3, "Strength of the colour jitter.", FRACTION),
        "padding_is_background": Field(
            False,
            "Padded pixels are background and not salient, instead of left out of the losses.",
        ),
    },
    "model": {
        "channels": Field(128, "D, channels of a task branch.", ABOVE_0),
        "dilations": Field(
            (6, 12, 18),
            "Dilation rates of the two branch convolutions and of the head's. (6, 12, 18) is for "
            "output stride 8: if you override `output_stride`, set this, too.",
            all_at_least(1),
        ),
        "head_conv": Field(True, "A dilated 3x3 convolution before the 1x1 prediction."),
        "dropout": Field(
            0.5, "Rate of channel-wise dropout before the classification layer.", FRACTION
        ),
        "precision": Field(
            "tensorfloat32",
            "Precision of the convolutions. `highest`: float32 on every device; `tensorfloat32`: "
            "float32 arrays, TF32 products on a GPU, as PyTorch does by default, three bfloat16 "
            "passes on a TPU, float32 on the CPU; `bfloat16`: arrays and products. All else is "
            "float32.",
            one_of(*PRECISIONS),
        ),
        "mask_padding": Field(
            True,
            "Hides the padding of a training crop from the network, as at test: the convolutions "
            "see 0, and the pool and the affinities leave it out. Off: the network sees it as grey "
            "photo, and only the losses leave it out.",
            before=False,
        ),
    },
    "pretrained": {
        "imagenet": Field(
            True, "Start from the ImageNet weights that a package brings for the backbone."
        ),
        "path": Field(
            "", "Start from this file of weights, or `params` folder of a phase, instead."
        ),
    },
    "affinity": {
        "pairwise": Field(
            True,
            "A pairwise affinity A of each task. Without it nothing propagates the CAMs.",
        ),
        "cosine": Field(
            10.0,
            "A = softmax_j(this factor times the cosine of theta_i and theta_j); 0: "
            "softmax_j(theta_i . phi_j), as the papers have it.",
            NOT_NEGATIVE,
            before=0.0,
        ),
        "unary": Field(
            True, "u = softmax_j(m_j), one query-independent map a task (DNL's unary term)."
        ),
        "cross_task": Field(
            True, "Fuse the tasks' maps by a learned gate; off: the segmentation task's own."
        ),
        "refine": Field(
            "both",
            "Which predictions get a refined twin A P + gamma 1 (u^T P), and a loss on it.",
            one_of("none", "seg", "both"),
        ),
        "whiten": Field(
            True,
            "Subtract the spatial mean of theta and phi (DNL); a cosine needs it.",
            before=False,
        ),
        "scale": Field(
            False, "Divide theta . phi by the square root of a head's channels; without `cosine`."
        ),
        "heads": Field(1, "Heads of each task's pairwise affinity.", ABOVE_0),
        "backbone_attention": Field(
            True, "Fuse the backbone's attention heads with the tasks' maps, if it has any."
        ),
        "normalize_rows": Field(False, "Scale the rows of the fused A to sum to 1."),
        "block_mib": Field(
            0.0,
            "Memory for the affinities of a batch on a device, MiB. More are made in blocks of "
            "rows: the same numbers to 1e-5, more time. 0: an eighth of the memory that JAX has on "
            "a GPU or TPU, 2048 on a CPU.",
            NOT_NEGATIVE,
            free=True,
        ),
    },
    "tasks": {
        "cls": Field(True, "The classification branch."),
        "sal": Field(True, "The saliency branch."),
    },
    "loss": {
        "classification": Field(1.0, "Weight of the classification loss.", NOT_NEGATIVE),
        "saliency": Field(1.0, "Weight of the saliency losses.", NOT_NEGATIVE),
        "segmentation": Field(1.0, "Weight of the segmentation losses.", NOT_NEGATIVE),
    },
    "optimizer": {
        "name": Field("sgd", "The optimiser.", one_of("sgd", "adamw")),
        "power": Field(0.9, "Power of the poly decay, by step.", NOT_NEGATIVE),
        "warmup": Field(
            0, "Steps of linear warm-up, but at most a quarter of a phase.", NOT_NEGATIVE
        ),
        "clip_norm": Field(
            0.0, "Gradients of a larger global norm are scaled down to it; 0: off.", NOT_NEGATIVE
        ),
        "momentum": Field(0.9, "Momentum of SGD, beta 1 of AdamW.", BELOW_1),
        "second_momentum": Field(0.999, "Beta 2 of AdamW.", BELOW_1),
        "weight_decay": Field(1e-5, "Weight decay; AdamW's is decoupled.", NOT_NEGATIVE),
        "heads": Field(
            (r"(cls|seg|sal|cross)_.*",),
            "Patterns of the parameters whose rate is `head_multiplier` times the rate.",
            PATTERNS,
        ),
        "head_multiplier": Field(10.0, "See `heads`.", ABOVE_0),
        "layer_decay": Field(
            1.0,
            "Each layer of the backbone has this share of the rate of the layer above it.",
            SHARE,
        ),
        "frozen": Field((), "Patterns of the parameters that do not train.", PATTERNS),
        "ema": Field(
            0.0,
            "Decay of a moving average of the parameters, with which a phase ends instead of the "
            "last ones. Until 1 / (1 - decay) steps are done it is their mean. 0: off.",
            BELOW_1,
        ),
    },
    "classifier": _phase(15),
    "stages": {
        "count": Field(5, "Number of stages.", between(1, 100)),
        "update_labels": Field(
            True,
            "Whether a stage updates the labels for the next. Without it all stages learn the "
            "initial labels: the baseline of training longer.",
        ),
        **_phase(10),
    },
    "log": {
        "log_every": Field(20, "Steps between two lines of metrics.", ABOVE_0, free=True),
        "checkpoint_every": Field(200, "Steps between two checkpoints.", ABOVE_0, free=True),
        "keep": Field(
            2, "The last checkpoints, so many, and the one of the least loss.", ABOVE_0, free=True
        ),
    },
    "cam": _views((0.5, 1.0, 1.5, 2.0), True, "the initial CAM"),
    "fuse": {
        "cam_threshold": Field(0.2, "A CAM above it is an object. Strict.", FRACTION),
        "spill_threshold": Field(
            0.5,
            "CAM without saliency: above this 255, else background. At `cam_threshold` it is the "
            "paper's rule, where it is always 255.",
            FRACTION,
        ),
        "saliency_threshold": Field(0.06, "A saliency above it is salient. Strict.", FRACTION),
        "empty_is_background": Field(True, "A photo without any class is background everywhere."),
    },
    "walk": {
        "beta": Field(1.0, "Exponent of the affinity.", NOT_NEGATIVE),
        "steps": Field(4, "Steps of the random walk.", NOT_NEGATIVE, before=1),
        "normalize": Field(True, "Rows of the affinity sum to 1 before a step."),
        "restart": Field(0.2, "Share of the CAM itself that a step keeps.", FRACTION, before=0.5),
    },
    "label_update": {
        **_views((0.5, 1.0, 1.5), True, "the updated CAM"),
        "windows": _windows("The affinity and the predictions, not the CAM, see"),
        "classifier_weight": Field(
            0.5,
            "Share of the first classifier's CAM in the CAM that walks: a stage's classifier "
            "forgets.",
            FRACTION,
        ),
        "rescale": Field(
            "maximum",
            "What is done to each class's CAM after its walk. `maximum`: it is scaled to maximum 1 "
            "again, so that `cam_threshold` keeps its meaning, and objects grow with the walk; "
            "`histogram`: it gets its values of before, so that they do not, and the walk only "
            "decides where those are; `none`: nothing.",
            one_of("none", "maximum", "histogram"),
        ),
        "saliency_weight": Field(
            0.0,
            "Share of the network's map in the saliency; the rest is the given map. The paper's "
            "0.5 goes with a CRF that sharpens the sum.",
            FRACTION,
        ),
        "veto": Field(
            0.0,
            "A label to which the network's own segmentation gives less than this becomes 255: "
            "purer labels, fewer of them.",
            FRACTION,
        ),
    },
    "crf": {
        "filter": Field(
            "lattice",
            "`lattice`, linear in the pixels, or `exact`, quadratic.",
            one_of("lattice", "exact"),
        ),
    },
    "crf.saliency": _crf(0, gaussian=(3.0, 3.0), bilateral=(60.0, 5.0, 5.0)),
    "crf.segmentation": _crf(10, gaussian=(4.0, 3.0), bilateral=(83.0, 5.0, 3.0)),
    "post": _views((0.5, 1.0, 1.5), True, "a post-processed segmentation")
    | {"windows": _windows("See")},
    "predict": _views((1.0,), False, "a segmentation") | {"windows": _windows("See")},
    "report": {
        "photos": Field(
            6,
            "Training photos of which a stage keeps each step (CAM, walk, affinity, certainty) for "
            "report.html; 0: none. It takes the time of a few photos, and of a compilation.",
            NOT_NEGATIVE,
            free=True,
        ),
    },
    "eval": {
        "batch_size": Field(8, "Whole photos a batch, at most.", ABOVE_0),
        "megapixels": Field(
            4.0, "Megapixels a batch, at most; but one photo for each device.", ABOVE_0
        ),
        "max_buckets": Field(
            4, "Sizes that whole photos are padded to; each is compiled once.", ABOVE_0
        ),
    },
}
"""{section: {field: declaration}}; the section "" holds fields that are in none."""

_ROOT = Field("", "Folder of the data set.")
_PLANES = {plane.name: Field("none", plane.help) for plane in GIVEN}

DATA_FIELDS: dict[str, dict[str, Field]] = {
    "shapes": {
        "seed": Field(0, "Seed of the generated photos.", NOT_NEGATIVE),
        "sizes": Field(((64, 64),), "(height, width) of the photos, taken in turn.", SIZES),
        "train_photos": Field(64, "Photos to train on.", ABOVE_0),
        "val_photos": Field(16, "Photos to evaluate on.", ABOVE_0),
    },
    "voc_folder": {
        "root": _ROOT,
        "labels": Field("image_labels.txt", "File of image-level labels, under `data.root`."),
        **_PLANES,
    },
    "voc2012_wsss": {"root": _ROOT, **_PLANES},
    "coco2014_wsss": {"root": _ROOT, **_PLANES},
}
"""{builder: the fields that `data` has beside those of SECTIONS}."""

PRESETS: dict[str, dict[str, object]] = {
    "plus": {},
    "paper": {
        "affinity.unary": False,
        "affinity.cosine": 0.0,
        "affinity.whiten": False,
        "fuse.spill_threshold": 0.2,
        "fuse.empty_is_background": False,
        "walk.steps": 1,
        "walk.normalize": False,
        "walk.restart": 0.0,
        "label_update.scales": (1.0,),
        "label_update.flip": False,
        "label_update.classifier_weight": 0.0,
        "label_update.rescale": "none",
        "label_update.saliency_weight": 0.5,
        "label_update.windows": False,
        "post.windows": False,
        "predict.windows": False,
        "crf.saliency.iterations": 1,
        "model.head_conv": False,
        "model.mask_padding": False,
        "augment.scale": (1.0, 1.0),
    },
}
"""{preset: the fields in which it differs from the defaults}.

`plus` is AuxSegNet+ with our update of the pseudo labels; `paper` and `official` are AuxSegNet
(ICCV 2021) as its text and as its code have it.
"""
PRESETS["official"] = {
    name: value
    for name, value in PRESETS["paper"].items()
    if name not in ("model.head_conv", "augment.scale")
} | {
    "augment.scale_per": "batch",
    "augment.jitter": 0.0,
    "augment.padding_is_background": True,
    # The code hands its weight decay to SGD's momentum.
    "optimizer.momentum": 1e-5,
    "optimizer.weight_decay": 0.0,
    "optimizer.heads": (r"(cls|seg|sal)_.*",),
    "classifier.batch_size": 4,
    "classifier.lr": 7e-4,
    "stages.count": 4,
    "stages.epochs": 15,
    "stages.batch_size": 4,
    "stages.lr": 7e-4,
}
