"""Segments photo files into a folder of masks."""

import glob
import os
from collections.abc import Collection, Sequence

from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.inference import output
from auxseg_jax.inference.photo_files import PhotoFiles
from auxseg_jax.runs.predictor import Predictor


def predict_files(
    workdir: epath.PathLike,
    photos: Sequence[str],
    output_dir: epath.PathLike,
    *,
    post: bool = False,
    show: Collection[str] = (),
    point: tuple[int, int] | None = None,
) -> tuple[int, list[str]]:
    """Segments photo files with the last trained stage of a workdir.

    Args:
      workdir: the folder of a run.
      photos: files, or patterns of them, as "photos/*.jpg".
      output_dir: folder for what `inference.output` describes: masks, classes.csv, maps.
      post: see `Predictor.predict`.
      show: maps to write beside the masks, keys of `output.FOLDERS`.
      point: see `Predictor.predict`.

    Returns:
      How many were segmented, and a line for each photo that cannot be read.

    Raises:
      UserError: there is no photo, or none can be read; masks would overwrite photos; or the
        workdir or `show` cannot be used.
    """
    paths = _find_photos(photos)
    output_dir = epath.Path(output_dir).expanduser()
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file; masks go into a folder")
    _refuse_overwriting(paths, output_dir)
    predictor = Predictor(workdir)
    can_show = [name for name in output.FOLDERS if name in ("overlay", *predictor.can_show)]
    predictor.check_show(show, point, can_show=can_show)
    source = PhotoFiles(paths)
    if not source.sizes:
        raise UserError("\n  ".join(["no photo can be read:", *source.faults]), source.faults)
    predictor.check_show(show, point, source.sizes, can_show)

    def write(name, maps):
        output.write(output_dir, name, maps, predictor.classes)

    title = f"segmentation by {predictor.stage}"
    predictor.run(title, source, write, post=post, show=show, point=point)
    output.write_classes(output_dir, predictor.classes)
    return len(source), source.faults


def _find_photos(patterns: Sequence[str]) -> list[epath.Path]:
    if isinstance(patterns, str) or not patterns:
        raise UserError(f"expected a list of photos, got {patterns!r}")
    files: dict[epath.Path, epath.Path] = {}  # A file counts once, however it is named.
    for pattern in map(os.path.expanduser, patterns):
        # The name of a file may look like a pattern.
        matches = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
        if not matches:
            raise UserError(f"no file matches {pattern!r}")
        for path in map(epath.Path, matches):
            files.setdefault(path.resolve(), path)
    return sorted(files.values())


def _refuse_overwriting(paths: Sequence[epath.Path], folder: epath.Path) -> None:
    written = {folder / f"{path.stem}.png" for path in paths}
    for kind, ending in output.FOLDERS.items():
        written |= {folder / kind / f"{path.stem}{ending}" for path in paths}
    overwritten = {path.resolve() for path in paths} & {path.resolve() for path in written}
    if overwritten:
        raise UserError(
            f"the masks would overwrite the photos, {min(overwritten)} first; "
            "choose another output folder"
        )
