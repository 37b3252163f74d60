"""A prepared copy of a data set: how it is built, and how its parts are opened.

<copy>/<builder>/{photos,masks}/<version>/   ArrayRecord files of TFDS, see `data.features`
<copy>/index.npz                             ids and sizes of all photos, in their order
<copy>/dataset.json                          see `data.about`; written last
"""

import contextlib
import functools
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax.data import about, features, tfds_files
from auxseg_jax.data.planes import GIVEN
from auxseg_jax.data.sources import Source
from auxseg_jax.errors import UserError
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import first_line, progress

INDEX = "index.npz"
MASK_DECODERS = {"segmentation": tfds.decode.SkipDecoding()}
_NOTES = "notes.json"


@functools.cache
def open_builder(directory: epath.Path, config: str) -> tfds.core.DatasetBuilder:
    """Returns a builder made from the prepared files alone.

    The lists of a large data set take gigabytes; they are let go once it is prepared.
    """
    found = storage.matching(directory, f"*/{config}/*")
    if not found:
        raise UserError(f"{directory} is no whole prepared copy: it has no {config}; delete it")
    return tfds.builder_from_directory(found[0])


def open_photos(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    """Returns the raw examples of a split, by index; pictures stay as they are stored."""
    stored = ("image", *(plane.name for plane in GIVEN))
    present = [key for key in stored if key in builder.info.features]
    decoders = dict.fromkeys(present, tfds.decode.SkipDecoding())
    return builder.as_data_source(split=split, decoders=decoders)


def build(
    directory: epath.Path,
    work: epath.Path,
    source: Source,
    notes: tuple[Sequence[str], Sequence[str]],
) -> None:
    """Builds beside `directory` and renames, so that what is there is whole, whoever is killed.

    TFDS does not build again what it has finished.
    """
    staging_dir = work / directory.name
    for config in (features.PHOTOS, features.MASKS):
        _download_and_prepare(source.make_builder(work, config=config, data_dir=str(staging_dir)))
    for partial_dir in storage.matching(
        staging_dir, "*/*/*incomplete*"
    ):  # A build that was killed left them.
        partial_dir.rmtree()
    storage.write_json(staging_dir / _NOTES, notes)
    staging_dir.rename(directory)
    work.rmtree()


def describe(directory: epath.Path, name: str, source: Source) -> None:
    """Reads all records once, and writes beside them ids, sizes and what they hold.

    Otherwise every start would read every photo for its size.
    """
    photos, masks = (
        open_builder(directory, config) for config in (features.PHOTOS, features.MASKS)
    )
    arrays: dict[str, np.ndarray] = {}
    splits = {}
    classes = source.classes()
    state = hashlib.sha256(repr(classes).encode())
    for split in photos.info.splits:
        records = open_photos(photos, split)
        sizes, ids = np.zeros((len(records), 2), np.int32), []
        of_class, without = np.zeros(len(classes) - 1, np.int64), 0
        with progress(f"sizes of {split}", len(records), unit="photo") as bar:
            for index in range(len(records)):
                example = records[index]
                _add_to_hash(state, split, example)
                sizes[index] = example["size"]
                ids.append(example["id"])
                of_class += example["labels"]
                without += not example["labels"].any()
                bar.advance(1)
        arrays |= {split: sizes, f"{split}/ids": np.frombuffer(b"\n".join(ids), np.uint8)}
        has_masks = split in masks.info.splits
        if has_masks:
            for example in masks.as_data_source(split=split, decoders=MASK_DECODERS):
                _add_to_hash(state, split, example)
        splits[split] = about.Split(len(records), tuple(of_class.tolist()), without, has_masks)
    storage.write_npz(directory / INDEX, arrays)
    planes = tuple(plane.name for plane in GIVEN if plane.name in photos.info.features)
    digest = f"content:{state.hexdigest()[:16]}"
    # Copies of versions before 0.4 have no notes.
    has_notes = (directory / _NOTES).exists()
    notes = storage.read_json(directory / _NOTES) if has_notes else ((), ())
    content = about.About(name, digest, classes, planes, splits, *map(tuple, notes))
    about.write(directory, content)


def _add_to_hash(state: Any, split: str, example: dict[str, Any]) -> None:
    for key, value in sorted(example.items()):
        data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
        state.update(f"{split} {key} {len(data)} ".encode() + data)


def _download_and_prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()
    try:
        # It talks of downloads; there are none.
        with contextlib.redirect_stdout(io.StringIO()), tfds_files.without_tensorflow():
            builder.download_and_prepare()
    except RuntimeError as error:  # ArrayRecord's, of a full disk and the like.
        raise UserError(
            f"the prepared copy cannot be written (data.cache_dir): {first_line(error)}"
        ) from error
