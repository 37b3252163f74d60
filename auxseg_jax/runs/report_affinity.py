"""What a report says of affinities in figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from auxseg_jax.evaluation import affinities, score
from auxseg_jax.runs import explained

HEADINGS = (
    *("looks at, cells", "row sum", "part of fused", "on same label", "uniform"),
    *("on same class (oracle)", "uniform", "colour"),
)

_FIGURES = ("neighbours", "row_sum", "part", "same_label", "same_label_uniform")

_Maps = Mapping[str, Mapping[str, np.ndarray]]


def rows(
    scored: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, _Maps],
    truths: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Returns the rows of a table with HEADINGS: of each stage, each affinity.

    Args:
      scored: {stage: `scores.AffinityScore` as JSON}.
      kept: {stage: {id: maps}}, see `explained.read`.
      truths: {id: mask uint8 [H, W]}, of those that have one. They serve this table alone.
    """
    found = []
    for stage, result in scored.items():
        oracle = _on_same_class(kept.get(stage, {}), truths)
        for k, (name, figures) in enumerate(result["figures"].items()):
            first, *others = (figures[key] for key in _FIGURES)
            others += [*([oracle[k], oracle[-1]] if oracle else (None, None)), figures["colour"]]
            cells = [f"{first:.0f}", *("" if x is None else f"{x:.2f}" for x in others)]
            found.append({"name": f"{stage}, {name}", "cells": cells})
    return found


def _on_same_class(kept: _Maps, truths: Mapping[str, np.ndarray]) -> list[float | None]:
    """Returns the share on cells of the true class, of each affinity and of a uniform one."""
    found = [
        affinities.own_share(
            explained.with_uniform(maps),
            affinities.cells_of(truths[name], maps["grid"], maps["extent"]),
        )
        for name, maps in kept.items()
        if name in truths and "uniform" in maps
    ]
    if not found:
        return []
    return [None if np.isnan(x) else float(x) for x in affinities.mean_known(found)]


def cam_gains(
    kept: Mapping[str, _Maps], truths: Mapping[str, np.ndarray], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns of each stage the mIoU of CAM and propagated CAM, at their best thresholds.

    Args:
      kept: see `rows`.
      truths: see `rows`.
      classes: names of the labels.
    """
    found = []
    for stage, maps_of in kept.items():
        names = [name for name in maps_of if name in truths]
        if not names:
            continue
        cells = []
        for kind in ("cam", "walked"):
            planes = ((maps_of[n][f"{kind}_class"], maps_of[n][f"{kind}_score"], n) for n in names)
            pixels = sum(score.cam_pixels(c, s, truths[n], len(classes)) for c, s, n in planes)
            cells.append(f"{score.cam_sweep(pixels, classes).best_miou:.1f}")
        found.append({"name": stage, "cells": cells})
    return found
