"""Prepares a data set once, and reads it: `prepare(config.data) -> Dataset`."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax import files
from auxseg_jax.data import features, shapes, voc_folder


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      name: of the builder.
      classes: names, background first.
      train_split, val_split: names of the splits.
      digest: hash of what it was made from.
      build: config name -> TFDS builder of the prepared files.
    """

    name: str
    classes: tuple[str, ...]
    train_split: str
    val_split: str
    digest: str
    build: Callable[[str], tfds.core.DatasetBuilder]

    @property
    def num_classes(self) -> int:
        """C, the number of foreground classes."""
        return len(self.classes) - 1

    def photos(self, split: str) -> Any:
        """Random-access source of raw examples of the `photos` config (see `data.features`): no masks in it."""
        skip = tfds.decode.SkipDecoding()
        return self.build(features.PHOTOS).as_data_source(split=split, decoders={"image": skip, "saliency": skip})

    def has_masks(self, split: str) -> bool:
        """Whether the split can be evaluated."""
        return split in self.build(features.MASKS).info.splits

    def masks(self, split: str) -> Iterator[tuple[str, Any]]:
        """(id, uint8 [H, W] pixel labels) of a split. To evaluate, and for the run marked fully supervised; nothing else."""
        if not self.has_masks(split):
            raise ValueError(f"split {split!r} of {self.name} has no pixel labels to evaluate with")
        source = self.build(features.MASKS).as_data_source(split=split, decoders={"segmentation": tfds.decode.SkipDecoding()})
        for example in source:
            yield example["id"].decode(), files.decode_plane(example["segmentation"])


def prepare(*, builder: str, train_split: str, val_split: str, cache_dir: str, **source: Any) -> Dataset:
    """Prepares the data set under `cache_dir`, unless it is there already, and returns its reader.

    Args:
      builder: "shapes" or "voc_folder".
      train_split, val_split: names of the splits.
      cache_dir: folder of the prepared copies (ArrayRecord files, named by a hash of what they were made from).
      **source: `root` of voc_folder; `seed`, `sizes`, `train_photos`, `val_photos` of shapes.

    Raises:
      voc_folder.DataError: lists everything that is wrong with a folder.
    """
    classes, digest, check, make = source_of(builder)(train_split=train_split, val_split=val_split, **source)
    directory = epath.Path(cache_dir).expanduser() / builder / digest
    make = functools.partial(make, file_format="array_record")
    if not directory.exists():
        check()
        # Made aside and renamed: what is there is whole, whoever was killed, and two runs may prepare it at the same moment.
        aside = directory.with_name(f"{digest}.{uuid.uuid4().hex}")
        for config in (features.PHOTOS, features.MASKS):
            _download_and_prepare(make(config=config, data_dir=str(aside)))
        try:
            aside.rename(directory)
        except OSError:
            if not directory.exists():
                raise
            aside.rmtree()  # the other run was first
    build = functools.cache(lambda config: make(config=config, data_dir=str(directory)))
    return Dataset(builder, classes, train_split, val_split, digest, build)


def source_of(builder: str) -> Callable:
    """The function that takes the fields of `config.data` for this builder: train_split, val_split and its own."""
    if builder not in _SOURCES:
        raise ValueError(f"data.builder={builder!r} is not one of {', '.join(_SOURCES)}")
    return _SOURCES[builder]


def _download_and_prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it talks of downloads; there are none
        builder.download_and_prepare()


def _shapes(*, train_split: str, val_split: str, seed: int, sizes, train_photos: int, val_photos: int):
    arguments = {"seed": seed, "sizes": [tuple(s) for s in sizes], "counts": {train_split: train_photos, val_split: val_photos}}
    digest = hashlib.sha256(repr((arguments, str(shapes.Shapes.VERSION))).encode()).hexdigest()[:16]
    return shapes.CLASSES, digest, lambda: None, functools.partial(shapes.Shapes, **arguments)


def _voc_folder(*, train_split: str, val_split: str, root: str):
    if not root:
        raise ValueError("data.root is empty: name the folder, --config.data.root=DIR")
    folder, faults = voc_folder.read_folder(root, [train_split] if train_split == val_split else [train_split, val_split])
    if faults:
        raise voc_folder.DataError(root, faults + voc_folder.picture_faults(folder))

    def check() -> None:
        if faults := voc_folder.picture_faults(folder):
            raise voc_folder.DataError(root, faults)

    return folder.classes, folder.digest(), check, functools.partial(voc_folder.VocFolder, folder=folder)


_SOURCES = {"shapes": _shapes, "voc_folder": _voc_folder}
