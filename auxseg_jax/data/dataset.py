"""Prepares a data set once, and reads it: `prepare(**config.data)` returns a `Dataset`."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.data import about, features, prepared_copy
from auxseg_jax.data.sources import find_source
from auxseg_jax.errors import UserError, raise_faults
from auxseg_jax.files import images, storage
from auxseg_jax.files.terminal import say

SCORE, SWEEP, SHOW, SUPERVISION = "score", "sweep", "show", "full supervision"
PURPOSES = (SCORE, SWEEP, SHOW, SUPERVISION)
"""What masks are read for: to score, to sweep a threshold (an oracle), to show, to train on.

What a report shows has figures too, among them the best threshold of the CAMs (an oracle).
"""


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
      journal: is told (split, purpose, photos) whenever masks are read.
    """

    name: str
    classes: tuple[str, ...]
    train_split: str
    val_split: str
    digest: str
    directory: epath.Path
    journal: Callable[[str, str, int], None] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def state(self) -> str:
        """Hash of the state of the files that it was prepared from."""
        return self.directory.name

    @property
    def num_classes(self) -> int:
        """C, the number of foreground classes."""
        return len(self.classes) - 1

    def photos(self, split: str) -> Any:
        """Returns a random-access source of raw examples; see `data.features`. It has no masks."""
        return prepared_copy.open_photos(
            prepared_copy.open_builder(self.directory, features.PHOTOS), split
        )

    def sizes(self, split: str) -> list[tuple[int, int]]:
        """Returns (H, W) of every photo of `photos`."""
        return [tuple(size) for size in self._index(split).tolist()]

    def ids(self, split: str) -> list[str]:
        """Returns the id of every photo of `photos`."""
        return self._index(f"{split}/ids").tobytes().decode().split("\n")

    def _index(self, name: str) -> np.ndarray:
        with storage.open_npz(self.directory / prepared_copy.INDEX) as arrays:
            return arrays[name]

    def num_masks(self, split: str) -> int:
        """Returns how many photos of a split have pixel labels."""
        splits = prepared_copy.open_builder(self.directory, features.MASKS).info.splits
        return splits[split].num_examples if split in splits else 0

    def has_masks(self, split: str) -> bool:
        """Returns whether the split can be evaluated."""
        return self.num_masks(split) > 0

    def mask_names(self, split: str) -> list[str]:
        """Returns the ids of the photos of a split that `masks` gives, in its order."""
        return [example["id"].decode() for example in self._mask_source(split)]

    def masks(
        self,
        split: str,
        purpose: str,
        share: tuple[int, int] = (0, 1),
        only: Collection[str] | None = None,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (id, uint8 [H, W] pixel labels) of a split.

        They serve to evaluate, and for the run marked fully supervised; for nothing else.

        Args:
          split: its name.
          purpose: what for, one of PURPOSES; it goes into the journal.
          share: (index, number of shares); one of several shares of the photos is read.
          only: ids of the photos; None: all.
        """
        if purpose not in PURPOSES:
            raise ValueError(f"{purpose!r} is not one of {', '.join(PURPOSES)}")
        source = self._mask_source(split)
        if self.journal:
            self.journal(split, purpose, len(source if only is None else only))
        for index in range(share[0], len(source), share[1]):
            example = source[index]
            name = example["id"].decode()
            if only is None or name in only:  # No other mask is decoded.
                yield name, images.decode_plane(example["segmentation"])

    def _mask_source(self, split: str) -> Any:
        if not self.has_masks(split):
            raise UserError(f"split {split!r} of {self.name} has no pixel labels to evaluate with")
        builder = prepared_copy.open_builder(self.directory, features.MASKS)
        return builder.as_data_source(split=split, decoders=prepared_copy.MASK_DECODERS)


def evenly(count: int, wanted: int) -> list[int]:
    """Returns up to `wanted` of the indices below `count`, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int)).tolist()


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
        directory = epath.Path(prepared).expanduser()
        return _open(directory, builder, (train_split, val_split), strict)
    cache = epath.Path(cache_dir).expanduser() / builder
    for name in (train_split, val_split):
        if not re.fullmatch(r"\w+", name):
            raise UserError(
                f"data: {name!r} cannot be the name of a split; use letters, digits and _"
            )
    find = find_source(builder)
    splits = {"train_split": train_split, "val_split": val_split}
    source = find(cache, **splits, megapixels=megapixels, **fields)
    subject = fields.get("root") or builder
    directory, work = cache / source.digest, cache / source.work
    if not about.exists(directory):
        with _sole_preparation(cache):
            if not directory.exists():  # Another run may have been first.
                contradictions, remarks = source.check(work)
                _refuse(subject, contradictions, strict)
                prepared_copy.build(directory, work, source, (contradictions, remarks))
            if not about.exists(directory):
                prepared_copy.describe(directory, builder, source)
    content = about.read(directory)
    _refuse(subject, content.contradictions, strict)
    return Dataset(builder, content.classes, train_split, val_split, content.digest, directory)


def open_copy(
    state: str,
    *,
    builder: str,
    train_split: str,
    val_split: str,
    cache_dir: str,
    prepared: str = "",
    **_: Any,
) -> Dataset | None:
    """Opens the prepared copy that a run was begun with, whatever became of the files since.

    Args:
      state: `Dataset.state` of then.
      builder: see `prepare`.
      train_split: see `prepare`.
      val_split: see `prepare`.
      cache_dir: see `prepare`.
      prepared: see `prepare`.

    Returns:
      The data set; None if the copy is gone.
    """
    cached = epath.Path(cache_dir).expanduser() / builder / state
    directory = epath.Path(prepared).expanduser() if prepared else cached
    if not state or not about.exists(directory):
        return None
    return _open(directory, builder, (train_split, val_split), strict=False)


def is_unchanged(state: str, *, builder: str, prepared: str = "", **fields: Any) -> bool:
    """Returns whether the files of a data set are as they were, without reading a picture.

    Where they are not, their content may still be the same: then `prepare` tells.

    Args:
      state: `Dataset.state` of then.
      builder: see `prepare`.
      prepared: see `prepare`.
      **fields: see `prepare`.
    """
    if prepared:
        return False
    cache = epath.Path(fields.pop("cache_dir")).expanduser() / builder
    fields.pop("strict", None)
    megapixels = fields.pop("megapixels", 0.0)
    return find_source(builder)(cache, megapixels=megapixels, **fields).digest == state


def _refuse(subject: object, contradictions: Sequence[str], strict: bool) -> None:
    if strict:
        advice = "if this is as it should be: --config.data.strict=False"
        raise_faults(subject, contradictions, advice)


def _open(directory: epath.Path, builder: str, splits: tuple[str, str], strict: bool) -> Dataset:
    content = about.read(directory)
    if content.builder != builder:
        raise UserError(
            f"data.prepared: {directory} is made by {content.builder}, not by "
            f"data.builder={builder!r}"
        )
    if absent := [name for name in splits if name not in content.splits]:
        raise UserError(
            f"data.prepared: {directory} has no split {absent[0]!r}; it has "
            f"{', '.join(content.splits)}"
        )
    _refuse(directory, content.contradictions, strict)
    return Dataset(builder, content.classes, *splits, content.digest, directory)


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
