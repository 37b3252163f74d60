"""Segments photo files into a folder of masks."""

import glob
import math
import os
from collections.abc import Collection, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from auxseg_jax.data import photo_names
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import say
from auxseg_jax.inference import output, passes
from auxseg_jax.inference.photo_files import PhotoFiles
from auxseg_jax.runs import build
from auxseg_jax.runs.labelled_photos import LabelledPhotos
from auxseg_jax.runs.predictor import Predictor

_MEGAPIXELS, _POSITIONS = 4.0, 2**16
"""Larger photos are scaled down where the config does not say so.

The memory is about 0.4 GiB a megapixel, 1.3 with post-processing; the time of the affinities grows
with the square of the positions.
"""

_MARK = ".auxseg_predict.json"
"""The file that says which masks of a folder are ours: a list of ids."""


def predict_files(
    workdir: epath.PathLike,
    photos: Sequence[str],
    output_dir: epath.PathLike,
    *,
    post: bool = False,
    show: Collection[str] = (),
    point: tuple[int, int] | None = None,
    overwrite: bool = False,
    use_labels: bool = True,
) -> tuple[int, list[str]]:
    """Segments photo files with the last trained stage of a workdir.

    Args:
      workdir: the folder of a run.
      photos: files, folders, or patterns of files, as "photos/*.jpg".
      output_dir: folder for what `inference.output` describes: masks, classes.csv, maps.
      post: see `Predictor.predict`.
      show: maps to write beside the masks, keys of `output.FOLDERS`.
      point: see `Predictor.predict`.
      overwrite: write over files in `output_dir` that are not of an earlier prediction.
      use_labels: photos that belong to the data of the run show the classes of their image labels
        alone, and the pseudo labels and the saliency of the run count, too.

    Returns:
      How many were segmented, and a line for each photo that cannot be read.

    Raises:
      UserError: there is no photo, or none can be read; masks would overwrite photos; or the
        workdir or `show` cannot be used.
    """
    paths = _find_photos(photos)
    output_dir = epath.Path(output_dir).expanduser()
    _check_output(paths, output_dir, overwrite)
    predictor = Predictor(workdir)
    can_show = [name for name in output.FOLDERS if name in ("overlay", *predictor.can_show)]
    predictor.check_show(show, point, can_show=can_show)
    # The point of an affinity is one of the photo as it is.
    limit = math.inf if point else _limit(predictor.config)
    source = PhotoFiles(paths, limit)
    if not source.sizes:
        raise UserError("\n  ".join(["no photo can be read:", *source.faults]), source.faults)
    predictor.check_show(show, point, source.sizes, can_show)
    _mark(output_dir, source.ids)
    known = None
    if use_labels and predictor.can_use_labels and not point:
        known = LabelledPhotos(predictor.config, predictor.workdir, source)
    write = _writer(output_dir, source, predictor.classes, limit)
    _segment(predictor, source, known, write, {"post": post, "show": show, "point": point})
    output.write_classes(output_dir, predictor.classes)
    return len(source), source.faults


def _limit(config: ml_collections.ConfigDict) -> float:
    """Returns the megapixels to which larger photos are scaled down."""
    by_positions = _POSITIONS * build.grid(config).stride ** 2 / 1e6
    return config.data.megapixels or min(_MEGAPIXELS, by_positions)


def _writer(
    folder: epath.Path, source: PhotoFiles, classes: Sequence[str], limit: float
) -> passes.Write:
    """Returns a function that writes one photo's maps at the size of its file."""
    if source.scaled:
        say(
            f"{len(source.scaled)} photos have more than {limit:g} megapixels; they are segmented "
            f"at that size, and the masks are scaled back: {', '.join(list(source.scaled)[:3])}"
        )

    def write(name: str, maps: dict[str, np.ndarray]) -> None:
        if name in source.scaled:
            maps = output.resize(maps, source.scaled[name])
        output.write(folder, name, maps, classes)

    return write


def _segment(
    predictor: Predictor,
    source: PhotoFiles,
    known: LabelledPhotos | None,
    write: passes.Write,
    options: dict[str, Any],
) -> None:
    """Segments the photos whose labels are known, then the others."""
    title = f"segmentation by {predictor.stage}"
    if known:
        say(
            f"{len(known)} of the {len(source)} photos have image labels in the data of the run: "
            "only their classes appear (--ignore-labels segments them as any other)"
        )
        predictor.run(f"{title}, labelled", known, write, labelled=True, **options)
        source = source.without(known.ids)
    if len(source):
        predictor.run(title, source, write, **options)


def _find_photos(names: Sequence[str]) -> list[epath.Path]:
    if isinstance(names, str) or not names:
        raise UserError(f"expected a list of photos, got {names!r}")
    files: dict[epath.Path, epath.Path] = {}  # A file counts once, however it is named.
    for name in map(os.path.expanduser, names):
        matches = _matches(name)
        if not matches and os.path.isdir(name):
            within = os.path.join(name, "JPEGImages")
            advice = f"; there is {within}" if os.path.isdir(within) else ""
            raise UserError(f"{name} is a folder without a photo (.jpg, .jpeg, .png){advice}")
        if not matches:
            raise UserError(f"no file matches {name!r}")
        for path in map(epath.Path, matches):
            files.setdefault(path.resolve(), path)
    return sorted(files.values())


def _matches(name: str) -> list[str]:
    """Returns the photos that a name means: a file, all photos of a folder, or a pattern's."""
    if os.path.isdir(name):
        entries = os.listdir(name)
        if others := sorted(filter(photo_names.is_other_picture, entries)):
            shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
            say(f"{name}: left out, being neither .jpg, .jpeg nor .png: {shown}")
        return [os.path.join(name, entry) for entry in entries if photo_names.is_photo(entry)]
    if os.path.exists(name):
        return [name]
    # Folders that are there are no patterns, and the endings of photos count in any case.
    literal, rest = os.path.dirname(name), os.path.basename(name)
    while literal and not os.path.isdir(literal):
        literal, part = os.path.split(literal)
        rest = os.path.join(part, rest)
    stem, ending = os.path.splitext(rest)
    if photo_names.is_photo(rest):
        ending = "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in ending)
    return glob.glob(os.path.join(glob.escape(literal), stem + ending), recursive=True)


def _check_output(paths: Sequence[epath.Path], folder: epath.Path, overwrite: bool) -> None:
    """Raises UserError if masks would go over photos, or over what somebody else wrote."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; masks go into a folder")
    resolved = {path.resolve() for path in paths}
    places = [(folder, ".png"), *((folder / k, ending) for k, ending in output.FOLDERS.items())]
    written = {(place / f"{p.stem}{ending}").resolve() for place, ending in places for p in paths}
    if resolved & written:
        raise UserError("the masks would overwrite the photos; choose another output folder")
    if folder.resolve() in {path.parent for path in resolved}:
        raise UserError(
            f"{folder} holds the photos, and masks would lie among them; "
            "choose another output folder"
        )
    if (folder / "JPEGImages").is_dir():
        raise UserError(
            f"{folder} is the folder of a data set, and masks would lie among its lists; "
            f"choose another output folder, as {folder / 'masks'}"
        )
    if overwrite or not folder.exists():
        return
    ours = _written_before(folder)
    names = [f"{path.stem}.png" for path in paths if path.stem not in ours]
    names += [] if ours else [output.CLASSES]
    for kind, ending in output.FOLDERS.items():
        if (folder / kind).exists():
            stems = {path.stem for path in paths} - ours
            # The files of CAMs have the class between.
            present = (path.name for path in (folder / kind).iterdir())
            names += [
                f"{kind}/{name}"
                for name in present
                if name.endswith(ending)
                and stems
                & {name.removesuffix(ending), name.removesuffix(ending).rpartition(".")[0]}
            ]
    existing = sorted(name for name in names if (folder / name).exists())
    if existing:
        raise UserError(
            f"{folder} holds {existing[0]}, which is not of an earlier prediction; choose another "
            "output folder, or --overwrite"
        )


def _written_before(folder: epath.Path) -> set[str]:
    """Returns the ids of the photos whose masks in a folder are ours."""
    path = folder / _MARK
    content = storage.read_json(path) if path.exists() else []
    return set(map(str, content)) if isinstance(content, list) else set()


def _mark(folder: epath.Path, names: Sequence[str]) -> None:
    """Writes down, before a mask is written, which of a folder will be ours."""
    storage.write_json(folder / _MARK, sorted(_written_before(folder) | set(names)))
