"""The results of a run as a table on the terminal."""

from typing import Any

import rich.console
import rich.table


def show(results: dict[str, Any], console: rich.console.Console) -> None:
    """Prints results.json: what each stage reached on val, and the pseudo labels it leaves for the next."""
    supervision = "  FULLY SUPERVISED: trained on masks" if results.get("fully_supervised") else ""
    table = rich.table.Table(title=f"Results, percent{supervision}")
    table.add_column("phase")
    for heading in (
        "val mAP",
        "val mIoU",
        "val mIoU\npost",
        "pseudo\nmIoU a",
        "pseudo\nmIoU b",
        "precision",
        "recall",
        "saliency\nMAE",
        "saliency\nmax F",
    ):
        table.add_column(heading, justify="right")
    pseudo = {entry["stage"]: entry for entry in results["pseudo"]}
    table.add_row("classifier + CAM", _figure(results["classifier"], "map"), "", "", *_pseudo_cells(pseudo.get("initial", {})))
    for entry in results["stages"] or [{"stage": k} for k in pseudo if k != "initial"]:
        labels = {key: value for key, value in pseudo.get(entry["stage"], {}).items() if not key.startswith("saliency")}
        table.add_row(f"stage {entry['stage']}", "", _figure(entry, "val_miou"), _figure(entry, "val_miou_post"), *_pseudo_cells(labels | entry))
    console.print(table)
    if pseudo:
        console.print("Pseudo labels of the training split: a leaves out pixels labelled 255, b counts them as missed, as do precision and recall.")
    if pseudo or results["stages"]:
        console.print("Saliency: of the maps that were given, on the training split, in the first row; of the network, on val, in the others.")
    else:
        console.print("There are no pixel labels, so neither masks nor pseudo labels are scored.")
    if "cam_sweep" in results:
        sweep = results["cam_sweep"]
        console.print(f"Oracle: the CAMs alone come to mIoU {sweep['best_miou']:.1f} with the threshold best for them, {sweep['best_threshold']}.")
    per_class = results["final"].get("per_class", {})
    if per_class:
        console.print(
            "IoU a class: " + ", ".join(f"{name} {'absent' if value is None else f'{value:.1f}'}" for name, value in per_class.items()), markup=False
        )
    minutes = sum(results["seconds"].values()) / 60
    console.print(
        f"{minutes:.1f} minutes: " + ", ".join(f"{name} {value:.0f}s" for name, value in results["seconds"].items() if value >= 1), markup=False
    )


def _pseudo_cells(entry: dict[str, Any]) -> list[str]:
    return [_figure(entry, key) for key in ("miou", "miou_255_as_miss", "precision", "recall", "saliency_mae", "saliency_max_f")]


def _figure(entry: dict[str, Any], key: str) -> str:
    return f"{entry[key]:.1f}" if key in entry else ""
