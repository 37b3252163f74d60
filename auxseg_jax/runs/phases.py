"""The method as a list: what a run does, in order (docs/method.md, section "Phases").

To add a phase, write its work (a function as in `runs.work`) and add its row to `plan`.
"""

from collections.abc import Callable, Collection

import ml_collections

from auxseg_jax.evaluation import scores
from auxseg_jax.report.results import Results
from auxseg_jax.runs import review, work
from auxseg_jax.runs.forecast import passing, training
from auxseg_jax.runs.phase import Phase
from auxseg_jax.runs.workdir import CAM, CLASSIFIER, CLASSIFIER_CAM, REVIEW, stage_name

TRAIN, VAL = "train", "val"


def plan(config: ml_collections.ConfigDict, scored: Collection[str]) -> list[Phase]:
    """Returns the phases of a run, in order.

    Args:
      config: the config of the run.
      scored: which of the splits "train" and "val" have masks to score with.
    """
    weak = config.supervision == "image_labels"
    phases = [_classifier(), _initial_labels(weak)]
    labels = CAM  # The phase that left the current pseudo labels.
    if TRAIN in scored:
        phases.append(_score_labels(f"{CAM}/score", labels, None))
    if TRAIN in scored and weak:
        phases.append(
            Phase(
                f"{CAM}/sweep",
                work.sweep_cams,
                needs={"labels": labels},
                masks=TRAIN,
                scores=scores.CamSweep,
                report=Results.set_cam_sweep,
            )
        )
    sources = {}
    if weak and config.label_update.classifier_weight:
        needs, writes = {"weights": CLASSIFIER}, ("<id>.npy", "options.json")
        effort = passing(TRAIN, "label_update")
        phases.append(
            Phase(CLASSIFIER_CAM, work.keep_classifier_cams, needs, writes, effort=effort)
        )
        sources = {"cams": CLASSIFIER_CAM}
    for index in range(config.stages.count):
        name, learned = stage_name(index), labels
        before = {"weights": stage_name(index - 1) if index else CLASSIFIER}
        phases.append(
            Phase(
                name,
                work.train_stage,
                needs=before | {"labels": labels},
                writes=("checkpoints", "params"),
                stage=index,
                effort=training("stages"),
            )
        )
        phases += _validate(name, index, VAL in scored)
        if weak:
            labels = f"{name}/pseudo"
            needs, writes = {"weights": name, **sources}, ("segmentation", "saliency")
            effort = passing(TRAIN, "label_update", crf=True)
            phases.append(
                Phase(labels, work.update_labels, needs, writes, stage=index, effort=effort)
            )
            if TRAIN in scored:
                phases.append(_score_labels(f"{name}/pseudo_score", labels, index))
    if weak and VAL not in scored:
        phases.append(_review(name, learned))
    return phases


def _review(stage: str, labels: str) -> Phase:
    """Returns the last phase of a run whose masks cannot be scored."""
    return Phase(
        REVIEW,
        review.review,
        {"weights": stage, "labels": labels},
        ("sheet.jpg",),
        scores=scores.ReviewScore,
        report=Results.set_review,
    )


def _classifier() -> Phase:
    return Phase(
        CLASSIFIER,
        work.train_classifier,
        writes=("checkpoints", "params"),
        scores=scores.ClassifierScore,
        report=Results.set_classifier,
        effort=training("classifier"),
    )


def _initial_labels(weak: bool) -> Phase:
    if weak:
        planes = ("segmentation", "saliency", "cam_class", "cam_score")
        writes = tuple(f"pseudo/{plane}" for plane in planes)
        needs, effort = {"weights": CLASSIFIER}, passing(TRAIN, "cam")
        return Phase(CAM, work.make_initial_labels, needs, writes, effort=effort)
    writes = ("pseudo/segmentation", "pseudo/saliency")
    return Phase(CAM, work.take_labels_from_masks, writes=writes, masks=TRAIN)


def _score_labels(name: str, labels: str, stage: int | None) -> Phase:
    return Phase(
        name,
        work.score_labels,
        needs={"labels": labels},
        masks=TRAIN,
        scores=scores.PseudoScore,
        report=Results.add_pseudo,
        stage=stage,
    )


def _validate(stage: str, index: int, is_scored: bool) -> list[Phase]:
    """Returns the phases that predict the validation split, and score it if it has masks."""
    val, post = f"{stage}/val", f"{stage}/post"
    weights = {"weights": stage}
    writes, effort = ("<id>.png", "saliency"), passing(VAL, "predict")
    phases = [Phase(val, work.predict_val, weights, writes, stage=index, effort=effort)]
    if not is_scored:
        return phases

    def score(name: str, predictions: str, report: Callable) -> Phase:
        return Phase(
            name,
            work.score_val,
            needs={"predictions": predictions},
            masks=VAL,
            scores=scores.PredictionScore,
            report=report,
            stage=index,
        )

    return [
        *phases,
        score(f"{stage}/score", val, Results.add_stage),
        Phase(
            post,
            work.postprocess_val,
            weights,
            ("<id>.png",),
            stage=index,
            effort=passing(VAL, "post", crf=True),
        ),
        score(f"{stage}/post_score", post, Results.set_post),
    ]


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
