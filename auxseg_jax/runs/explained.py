"""The files of `work.explain`: <stage>/explain/<id>.npz, one a photo."""

import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.evaluation import affinities, scores
from auxseg_jax.files import storage
from auxseg_jax.inference import contact_sheet


def write(folder: epath.Path, name: str, maps: dict[str, np.ndarray]) -> None:
    """Writes what `explain.explain` returns of one photo.

    Of the grid of the affinities the part is kept that holds the photo: "grid" is its rows and
    columns, of which the last may hold a part of a cell; "extent" says how many cells there are.
    """
    maps = dict(maps)
    maps["certainty"] = np.round(255 * maps["certainty"]).astype(np.uint8)
    if "extent" in maps:
        of, factor = maps["grid"], maps.pop("factor")
        maps["extent"] = maps["extent"] / factor
        rows, columns = np.ceil(maps["extent"]).astype(int)
        inside = (np.arange(rows)[:, None] * of[1] + np.arange(columns)).ravel()
        maps["grid"] = np.array([rows, columns], np.int32)
        if "affinity" in maps:
            maps["affinity"] = maps["affinity"][:, inside][:, :, inside]
            maps["uniform"] = maps["uniform"][inside][:, inside]
        if "unary" in maps:
            maps["unary"] = maps["unary"][inside]
    storage.write_npz(folder / f"{name}.npz", maps, compress=True)


def read(
    folder: epath.PathLike, names: Collection[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Returns {id: maps} of the photos of a folder, by their ids.

    Args:
      folder: where.
      names: ids of the photos; None: all that are there.

    Raises:
      UserError: a file is damaged.
    """
    found = {}
    for path in storage.matching(folder, "*.npz"):
        if names is not None and path.stem not in names:
            continue
        try:
            with storage.open_npz(path) as stored:
                found[path.stem] = dict(stored)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({error}); delete its folder") from error
    return found


def affinity_names(config: ml_collections.ConfigDict, count: int) -> list[str]:
    """Returns the names of the affinities of a photo, the fused one first.

    Args:
      config: the config of the run.
      count: how many there are.
    """
    switches = config.affinity
    if count == 3 and config.tasks.sal and switches.cross_task and switches.heads == 1:
        return ["fused", "segmentation", "saliency"]
    return ["fused", *(f"source {k}" for k in range(1, count))]


def score(
    kept: Mapping[str, dict[str, np.ndarray]],
    photos: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    params: Mapping[str, Any],
    config: ml_collections.ConfigDict,
) -> scores.AffinityScore | None:
    """Returns figures of the affinities of some photos, means over them; None without affinities.

    Args:
      kept: {id: maps} of `read`.
      photos: {id: uint8 RGB [H, W, 3]}.
      labels: {id: pseudo labels uint8 [H, W]} that the stage learned.
      params: parameters of the stage.
      config: the config of the run.
    """
    found = []
    for name, maps in kept.items():
        if "affinity" not in maps:
            continue
        rows = with_uniform(maps)
        where = maps["grid"], maps["extent"]
        shares = affinities.own_share(rows, affinities.cells_of(labels[name], *where))
        distances = affinities.colour_distance(rows, affinities.cells_of(photos[name], *where))
        parts = maps.get("parts", np.zeros(0))
        figures = {
            "neighbours": maps["neighbours"],
            "row_sum": maps["row_sums"],
            "part": np.array([1.0, *(parts / max(parts.sum(), 1e-12))]),
            "same_label": shares[:-1],
            "same_label_uniform": np.full(len(rows) - 1, shares[-1]),
            "colour": distances[:-1] / max(distances[-1], 1e-12),
        }
        found.append(figures)
    if not found:
        return None
    names = affinity_names(config, len(found[0]["row_sum"]))
    means = {key: affinities.mean_known([f[key] for f in found]) for key in found[0]}
    return scores.AffinityScore(
        photos=len(found),
        figures={
            name: {
                key: None if np.isnan(mean[k]) else round(float(mean[k]), 4)
                for key, mean in means.items()
            }
            for k, name in enumerate(names)
        },
        weights={name: float(value) for name, value in params.items() if name.endswith("_gamma")},
    )


def with_uniform(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns rows [S + 1, Q, Q] that sum to 1: the affinities of a photo, then the uniform one.

    Args:
      maps: of `read`.
    """
    return affinities.rows_of(np.concatenate([maps["affinity"], maps["uniform"][None]]))


def draw(photo: np.ndarray, maps: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a photo, its CAM before and after the walk, and its prediction, side by side.

    Args:
      photo: uint8 RGB [H, W, 3].
      maps: of `read`.

    Returns:
      uint8 RGB [H, 4 W, 3].
    """
    cams = [
        contact_sheet.cam(maps[f"{kind}_class"], maps[f"{kind}_score"])
        for kind in ("cam", "walked")
    ]
    return np.concatenate([photo, *cams, contact_sheet.overlay(photo, maps["labels"])], 1)
