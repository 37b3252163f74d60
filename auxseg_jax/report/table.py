"""The results of a run as a table on the terminal."""

import rich.console
import rich.table

from auxseg_jax.evaluation import scores
from auxseg_jax.report.results import INITIAL, Results

_HEADINGS = (
    "val mAP",
    "val mIoU",
    "val mIoU\npost",
    "pseudo\nmIoU a",
    "pseudo\nmIoU b",
    "precision",
    "recall",
    "saliency\nMAE",
    "saliency\nmax F",
)


def show(results: Results, console: rich.console.Console) -> None:
    """Prints what each stage reached on val, and the pseudo labels it left for the next."""
    supervision = "  FULLY SUPERVISED: trained on masks" if results.fully_supervised else ""
    table = rich.table.Table(title=f"Results, percent{supervision}")
    table.add_column("phase")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    pseudo = {entry.stage: entry.score for entry in results.pseudo}
    first = pseudo.get(INITIAL)
    mean_precision = results.classifier.map if results.classifier else None
    table.add_row(
        "classifier + CAM",
        _figure(mean_precision),
        *("", ""),
        *_label_cells(first),
        *_saliency_cells(first),
    )
    stages = {entry.stage: entry for entry in results.stages}
    for stage in stages or [stage for stage in pseudo if stage != INITIAL]:
        entry = stages.get(stage)
        table.add_row(
            f"stage {stage}",
            "",
            _figure(entry.score.val_miou if entry else None),
            _figure(entry.val_miou_post if entry else None),
            *_label_cells(pseudo.get(stage)),
            *_saliency_cells(entry.score if entry else None),
        )
    console.print(table)
    for line in _legend(results):
        console.print(line, markup=False)


def _legend(results: Results) -> list[str]:
    lines = []
    if results.pseudo:
        lines.append(
            "Pseudo labels of the training split: a leaves out pixels labelled 255, b counts them "
            "as missed, as do precision and recall."
        )
    if results.pseudo or results.stages:
        lines.append(
            "Saliency: of the maps that were given, on the training split, in the first row; of "
            "the network, on val, in the others."
        )
    else:
        lines.append("There are no pixel labels, so neither masks nor pseudo labels are scored.")
    if results.review:
        review = results.review
        lines.append(
            f"Quality is unmeasured. Of {review.photos} training photos, predictions and the "
            f"pseudo labels agree to {review.agreement:.0f}% (mean IoU), predicted objects and "
            f"saliency to {review.saliency_iou:.0f}%. Least sure: "
            f"{', '.join(review.least_certain)}."
        )
    if results.cam_sweep:
        best = f"{results.cam_sweep.best_miou:.1f}"
        threshold = results.cam_sweep.best_threshold
        lines.append(
            f"Oracle: the CAMs alone come to mIoU {best} with the threshold best for them, "
            f"{threshold}."
        )
    if results.final:
        figures = results.final.score.per_class.items()
        cells = (f"{n} {'absent' if v is None else f'{v:.1f}'}" for n, v in figures)
        lines.append(f"IoU a class: {', '.join(cells)}")
    minutes = sum(results.seconds.values()) / 60
    cells = (f"{name} {value:.0f}s" for name, value in results.seconds.items() if value >= 1)
    lines.append(f"{minutes:.1f} minutes: {', '.join(cells)}")
    return lines


def _label_cells(score: scores.PseudoScore | None) -> list[str]:
    keys = ("miou", "miou_255_as_miss", "precision", "recall")
    return [_figure(getattr(score, key, None)) for key in keys]


def _saliency_cells(score: scores.PseudoScore | scores.PredictionScore | None) -> list[str]:
    return [_figure(getattr(score, key, None)) for key in ("saliency_mae", "saliency_max_f")]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
