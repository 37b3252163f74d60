"""The classifier's CAMs that a run keeps for its label updates."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from auxseg_jax.data import cam_files
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets, storage
from auxseg_jax.report import manifest
from auxseg_jax.runs.context import Context
from auxseg_jax.runs.phase import Phase

OPTIONS = "options.json"
"""Beside the CAMs: the fields of the config on which they depend."""


def options(context: Context) -> dict[str, Any]:
    """Returns the fields on which kept CAMs depend."""
    config = manifest.plain(context.config)
    update = {name: config["label_update"][name] for name in ("scales", "flip")}
    model = {name: config["model"][name] for name in ("backbone", "precision")}
    return {"label_update": update, "model": model, "crop": config["augment"]["crop"]}


def reader(context: Context, phase: Phase) -> Callable[[str], np.ndarray] | None:
    """Returns the reader of the CAMs that a phase needs; None if it needs none.

    Raises:
      UserError: they were kept with other fields: by another run, and copied.
    """
    if "cams" not in phase.needs:
        return None
    folder = context.workdir.folder(phase.needs["cams"])
    path = folder / OPTIONS
    if storage.read_json(path) != options(context):
        raise UserError(
            f"{path} differs from this run's config, so its CAMs are of other views or another "
            f"network; delete {folder}, and the same command makes them again"
        )
    return functools.partial(cam_files.read, file_sets.reader(folder))
