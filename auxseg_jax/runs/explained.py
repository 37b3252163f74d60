"""The files of `work.explain`: <stage>/explain/<id>.npz, one a photo."""

import zipfile
from collections.abc import Collection

import numpy as np
from etils import epath

from auxseg_jax.errors import UserError
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
