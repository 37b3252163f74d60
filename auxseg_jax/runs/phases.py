"""The method as a list: what a run does, in order (docs/method.md, section "Phases").

To add a phase, write its work (a function as in `runs.work`) and add its row to `plan`.
"""

from collections.abc import Callable, Collection, Mapping

import ml_collections

from auxseg_jax.evaluation import scores
from auxseg_jax.report.results import Results
from auxseg_jax.runs import review, work
from auxseg_jax.runs.forecast import passing, training
from auxseg_jax.runs.phase import Phase
from auxseg_jax.runs.workdir import CAM, CLASSIFIER, CLASSIFIER_CAM, REVIEW, stage_name

TRAIN, VAL = "train", "val"

_CLASSIFIER_FIELDS = (
    *("seed", "data", "augment", "model", "pretrained", "optimizer", "classifier", "eval"),
    *("tasks.cls", "loss.classification"),
)
_STAGE_FIELDS = (
    *("affinity", "loss", "tasks"),
    *(f"stages.{name}" for name in ("epochs", "min_steps", "batch_size", "accumulate", "lr")),
)
_UPDATE_VIEWS = ("label_update.scales", "label_update.flip")


def plan(config: ml_collections.ConfigDict, scored: Collection[str]) -> list[Phase]:
    """Returns the phases of a run, in order.

    Args:
      config: the config of the run.
      scored: which of the splits "train" and "val" have masks to score with.
    """
    weak = config.supervision == "image_labels"
    updates = weak and config.stages.update_labels
    phases = [_classifier(), _initial_labels(weak)]
    labels = CAM  # The phase that left the current pseudo labels.
    if TRAIN in scored:
        phases.append(_score_labels(f"{CAM}/score", labels, None))
    if TRAIN in scored and weak:
        phases.append(_sweep(labels))
    sources = {}
    if updates and config.label_update.classifier_weight:
        phases.append(_classifier_cam())
        sources = {"cams": CLASSIFIER_CAM}
    for index in range(config.stages.count):
        name, learned = stage_name(index), labels
        before = {"weights": stage_name(index - 1) if index else CLASSIFIER}
        phases.append(_stage(name, before | {"labels": labels}, index))
        phases += _validate(name, index, VAL in scored)
        if updates:
            labels = f"{name}/pseudo"
            phases.append(_update(labels, {"weights": name, **sources}, index))
            if config.report.photos:
                needs = {"weights": name, "labels": learned, **sources}
                phases.append(_explain(f"{name}/explain", needs, index))
            if TRAIN in scored:
                phases.append(_score_labels(f"{name}/pseudo_score", labels, index))
    if weak and VAL not in scored:
        phases.append(_review(name, learned))
    return phases


def _classifier() -> Phase:
    return Phase(
        CLASSIFIER,
        work.train_classifier,
        _CLASSIFIER_FIELDS,
        writes=("checkpoints", "params"),
        scores=scores.ClassifierScore,
        report=Results.set_classifier,
        effort=training("classifier"),
    )


def _initial_labels(weak: bool) -> Phase:
    if not weak:
        writes = ("pseudo/segmentation", "pseudo/saliency")
        fields = ("supervision", "data")
        return Phase(CAM, work.take_labels_from_masks, fields, writes=writes, masks=TRAIN)
    planes = ("segmentation", "saliency", "cam_class", "cam_score")
    return Phase(
        CAM,
        work.make_initial_labels,
        ("supervision", "cam", "fuse"),
        {"weights": CLASSIFIER},
        tuple(f"pseudo/{plane}" for plane in planes),
        effort=passing(TRAIN, "cam"),
    )


def _sweep(labels: str) -> Phase:
    return Phase(
        f"{CAM}/sweep",
        work.sweep_cams,
        (),
        {"labels": labels},
        masks=TRAIN,
        scores=scores.CamSweep,
        report=Results.set_cam_sweep,
    )


def _classifier_cam() -> Phase:
    return Phase(
        CLASSIFIER_CAM,
        work.keep_classifier_cams,
        _UPDATE_VIEWS,
        {"weights": CLASSIFIER},
        ("<id>.npy", "options.json"),
        effort=passing(TRAIN, "label_update"),
    )


def _stage(name: str, needs: Mapping[str, str], index: int) -> Phase:
    return Phase(
        name,
        work.train_stage,
        _STAGE_FIELDS,
        needs,
        ("checkpoints", "params"),
        stage=index,
        effort=training("stages"),
    )


def _update(name: str, needs: Mapping[str, str], index: int) -> Phase:
    return Phase(
        name,
        work.update_labels,
        ("label_update", "walk", "fuse", "crf.filter", "crf.saliency"),
        needs,
        ("segmentation", "saliency"),
        stage=index,
        effort=passing(TRAIN, "label_update", crf=True, dense=True),
    )


def _explain(name: str, needs: Mapping[str, str], index: int) -> Phase:
    return Phase(
        name,
        work.explain,
        ("label_update", "walk", "predict", "report.photos"),
        needs,
        ("<id>.npz",),
        scores=scores.AffinityScore,
        report=Results.add_affinity,
        stage=index,
    )


def _score_labels(name: str, labels: str, stage: int | None) -> Phase:
    return Phase(
        name,
        work.score_labels,
        (),
        {"labels": labels},
        masks=TRAIN,
        scores=scores.PseudoScore,
        report=Results.add_pseudo,
        stage=stage,
    )


def _validate(stage: str, index: int, is_scored: bool) -> list[Phase]:
    """Returns the phases that predict the validation split, and score it if it has masks."""
    val, post = f"{stage}/val", f"{stage}/post"
    weights = {"weights": stage}
    prediction = Phase(
        val,
        work.predict_val,
        ("predict",),
        weights,
        ("<id>.png", "saliency"),
        stage=index,
        effort=passing(VAL, "predict"),
    )
    if not is_scored:
        return [prediction]
    processed = Phase(
        post,
        work.postprocess_val,
        ("post", "crf.filter", "crf.segmentation"),
        weights,
        ("<id>.png",),
        stage=index,
        effort=passing(VAL, "post", crf=True),
    )
    return [
        prediction,
        _score_val(f"{stage}/score", val, index, Results.add_stage),
        processed,
        _score_val(f"{stage}/post_score", post, index, Results.set_post),
    ]


def _score_val(name: str, predictions: str, stage: int, report: Callable) -> Phase:
    return Phase(
        name,
        work.score_val,
        (),
        {"predictions": predictions},
        masks=VAL,
        scores=scores.PredictionScore,
        report=report,
        stage=stage,
    )


def _review(stage: str, labels: str) -> Phase:
    """Returns the last phase of a run whose masks cannot be scored."""
    return Phase(
        REVIEW,
        review.review,
        ("predict",),
        {"weights": stage, "labels": labels},
        ("sheet.jpg",),
        scores=scores.ReviewScore,
        report=Results.set_review,
    )


def describe(phases: Collection[Phase]) -> list[tuple[str, str, str, str]]:
    """Returns (name, needs, writes, masks) of each phase as text, for people."""
    return [
        (
            phase.name,
            ", ".join(dict.fromkeys(phase.needs.values())),
            ", ".join(phase.writes) or "figures",
            phase.masks,
        )
        for phase in phases
    ]
