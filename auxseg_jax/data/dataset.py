"""Prepares a data set once, and reads it: `prepare(**config.data)` returns a `Dataset`."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax.data import about, features, tfds_files
from auxseg_jax.data.planes import GIVEN
from auxseg_jax.data.sources import Source, find_source
from auxseg_jax.errors import UserError
from auxseg_jax.files import images, storage
from auxseg_jax.files.terminal import first_line, progress, say

_SIZES = "sizes.npz"
_MASK_DECODERS = {"segmentation": tfds.decode.SkipDecoding()}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      name: name of the builder.
      classes: names, background first.
      train_split: name of the split to train on.
      val_split: name of the split to evaluate on.
      digest: hash of its content.
      directory: folder of the prepared files.
    """

    name: str
    classes: tuple[str, ...]
    train_split: str
    val_split: str
    digest: str
    directory: epath.Path

    @property
    def num_classes(self) -> int:
        """C, the number of foreground classes."""
        return len(self.classes) - 1

    def photos(self, split: str) -> Any:
        """Returns a random-access source of raw examples; see `data.features`. It has no masks."""
        return _photos(_builder(self.directory, features.PHOTOS), split)

    def sizes(self, split: str) -> list[tuple[int, int]]:
        """Returns (H, W) of every photo of `photos`."""
        data = (self.directory / _SIZES).read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as sizes:
            return [tuple(size) for size in sizes[split].tolist()]

    def has_masks(self, split: str) -> bool:
        """Returns whether the split can be evaluated."""
        return split in _builder(self.directory, features.MASKS).info.splits

    def mask_names(self, split: str) -> list[str]:
        """Returns the ids of the photos of a split that `masks` gives, in its order."""
        return [example["id"].decode() for example in self._mask_source(split)]

    def masks(
        self, split: str, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (id, uint8 [H, W] pixel labels) of a split.

        They serve to evaluate, and for the run marked fully supervised; for nothing else.

        Args:
          split: its name.
          share: (index, number of shares); one of several shares of the photos is read.
        """
        source = self._mask_source(split)
        for index in range(share[0], len(source), share[1]):
            example = source[index]
            yield example["id"].decode(), images.decode_plane(example["segmentation"])

    def _mask_source(self, split: str) -> Any:
        if not self.has_masks(split):
            raise UserError(f"split {split!r} of {self.name} has no pixel labels to evaluate with")
        builder = _builder(self.directory, features.MASKS)
        return builder.as_data_source(split=split, decoders=_MASK_DECODERS)


def prepare(
    *,
    builder: str,
    train_split: str,
    val_split: str,
    cache_dir: str,
    prepared: str = "",
    strict: bool = True,
    megapixels: float = 0.0,
    **fields: Any,
) -> Dataset:
    """Prepares a data set under `cache_dir`, unless it is there already, and returns its reader.

    Args:
      builder: a key of `sources.SOURCES`.
      train_split: name of the split to train on.
      val_split: name of the split to evaluate on.
      cache_dir: folder of the prepared copies (ArrayRecord files, named by a hash of what they were
        made from).
      prepared: a prepared copy that is read as it is, wherever it was made.
      strict: refuse data whose parts contradict one another, see `data.content`.
      megapixels: photos of more are scaled down, with their maps and masks; 0: never.
      **fields: the builder's own fields.

    Raises:
      UserError: lists everything that is wrong with the data set.
    """
    if prepared:
        return _open(epath.Path(prepared).expanduser(), builder, train_split, val_split)
    cache = epath.Path(cache_dir).expanduser() / builder
    for name in (train_split, val_split):
        if not re.fullmatch(r"\w+", name):
            raise UserError(
                f"data: {name!r} cannot be the name of a split; use letters, digits and _"
            )
    find = find_source(builder)
    splits = {"train_split": train_split, "val_split": val_split}
    source = find(cache, **splits, megapixels=megapixels, **fields)
    directory, work = cache / source.digest, cache / source.work
    if not about.exists(directory):
        with _sole_preparation(cache):
            if not directory.exists():  # Another run may have been first.
                remarks = source.check(work, strict)
                _build(directory, work, source)
                _describe(directory, builder, source, remarks)
            elif not about.exists(directory):
                _describe(directory, builder, source, remarks=())
    digest = about.read(directory).digest
    return Dataset(builder, source.classes, train_split, val_split, digest, directory)


def _open(directory: epath.Path, builder: str, train_split: str, val_split: str) -> Dataset:
    content = about.read(directory)
    if content.builder != builder:
        raise UserError(
            f"data.prepared: {directory} is made by {content.builder}, not by "
            f"data.builder={builder!r}"
        )
    if absent := [name for name in (train_split, val_split) if name not in content.splits]:
        raise UserError(
            f"data.prepared: {directory} has no split {absent[0]!r}; it has "
            f"{', '.join(content.splits)}"
        )
    return Dataset(builder, content.classes, train_split, val_split, content.digest, directory)


@functools.cache
def _builder(directory: epath.Path, config: str) -> tfds.core.DatasetBuilder:
    """Returns a builder made from the prepared files alone.

    The lists of a large data set take gigabytes; they are let go once it is prepared.
    """
    return tfds.builder_from_directory(storage.matching(directory, f"*/{config}/*")[0])


def _photos(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    stored = ("image", *(plane.name for plane in GIVEN))
    present = [key for key in stored if key in builder.info.features]
    decoders = dict.fromkeys(present, tfds.decode.SkipDecoding())
    return builder.as_data_source(split=split, decoders=decoders)


@contextlib.contextmanager
def _sole_preparation(cache: epath.Path) -> Iterator[None]:
    """Lets one run prepare at a time; the others wait, and say so."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(cache / ".lock", wait=False))
        except BlockingIOError:
            say(f"waiting for another run that prepares data in {cache}")
            stack.enter_context(storage.lock(cache / ".lock", wait=True))
        yield


def _build(directory: epath.Path, work: epath.Path, source: Source) -> None:
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
    staging_dir.rename(directory)
    work.rmtree()


def _describe(directory: epath.Path, name: str, source: Source, remarks: Sequence[str]) -> None:
    """Reads all records once, and writes beside them their sizes and what they hold.

    Otherwise every start would read every photo for its size.
    """
    photos, masks = (_builder(directory, config) for config in (features.PHOTOS, features.MASKS))
    sizes, splits = {}, {}
    state = hashlib.sha256(repr(source.classes).encode())
    for split in photos.info.splits:
        records = _photos(photos, split)
        sizes[split] = np.zeros((len(records), 2), np.int32)
        of_class, without = np.zeros(len(source.classes) - 1, np.int64), 0
        with progress(f"sizes of {split}", len(records), unit="photo") as bar:
            for index in range(len(records)):
                example = records[index]
                _add_to_hash(state, split, example)
                sizes[split][index] = example["size"]
                of_class += example["labels"]
                without += not example["labels"].any()
                bar.advance(1)
        has_masks = split in masks.info.splits
        if has_masks:
            for example in masks.as_data_source(split=split, decoders=_MASK_DECODERS):
                _add_to_hash(state, split, example)
        splits[split] = about.Split(len(records), tuple(of_class.tolist()), without, has_masks)
    buffer = io.BytesIO()
    np.savez(buffer, **sizes)
    storage.write_bytes(directory / _SIZES, buffer.getvalue())
    planes = tuple(plane.name for plane in GIVEN if plane.name in photos.info.features)
    digest = state.hexdigest()[:16]
    content = about.About(name, digest, source.classes, planes, splits, tuple(remarks))
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
