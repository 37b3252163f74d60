"""Prepares a data set once, and reads it: `prepare(config.data) -> Dataset`."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax import files
from auxseg_jax.data import builders, coco2014, features, listing, pictures, shapes, voc2012, voc_folder
from auxseg_jax.data.listing import DataError
from auxseg_jax.terminal import console, progress

_SIZES = "sizes.npz"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      name: of the builder.
      classes: names, background first.
      train_split, val_split: names of the splits.
      digest: hash of what it was made from.
      directory: of the prepared files.
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
        """Random-access source of raw examples of the `photos` config (see `data.features`): no masks in it."""
        return _photos(_builder(self.directory, features.PHOTOS), split)

    def sizes(self, split: str) -> list[tuple[int, int]]:
        """(H, W) of every photo of `photos`."""
        with np.load(io.BytesIO((self.directory / _SIZES).read_bytes()), allow_pickle=False) as sizes:
            return [tuple(size) for size in sizes[split].tolist()]

    def has_masks(self, split: str) -> bool:
        """Whether the split can be evaluated."""
        return split in _builder(self.directory, features.MASKS).info.splits

    def mask_names(self, split: str) -> list[str]:
        """Ids of the photos of a split that `masks` gives, in its order."""
        return [example["id"].decode() for example in self._mask_source(split)]

    def masks(self, split: str, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[str, Any]]:
        """(id, uint8 [H, W] pixel labels) of a split, or of one of several shares: (index, number of shares).

        To evaluate, and for the run marked fully supervised; nothing else.
        """
        source = self._mask_source(split)
        for index in range(share[0], len(source), share[1]):
            example = source[index]
            yield example["id"].decode(), files.decode_plane(example["segmentation"])

    def _mask_source(self, split: str) -> Any:
        if not self.has_masks(split):
            raise ValueError(f"split {split!r} of {self.name} has no pixel labels to evaluate with")
        return _builder(self.directory, features.MASKS).as_data_source(split=split, decoders={"segmentation": tfds.decode.SkipDecoding()})


def prepare(*, builder: str, train_split: str, val_split: str, cache_dir: str, **source: Any) -> Dataset:
    """Prepares the data set under `cache_dir`, unless it is there already, and returns its reader.

    Args:
      builder: "shapes", "voc_folder", "voc2012_wsss" or "coco2014_wsss".
      train_split, val_split: names of the splits.
      cache_dir: folder of the prepared copies (ArrayRecord files, named by a hash of what they were made from).
      **source: the builder's own fields, see `source_of`.

    Raises:
      listing.DataError: lists everything that is wrong with a data set.
    """
    cache = epath.Path(cache_dir).expanduser() / builder
    if wrong := [name for name in (train_split, val_split) if not re.fullmatch(r"\w+", name)]:
        raise ValueError(f"data: {wrong[0]!r} cannot be the name of a split; use letters, digits and _")
    classes, digest, work, check, make = source_of(builder)(cache, train_split=train_split, val_split=val_split, **source)
    directory, work = cache / digest, cache / work
    if not directory.exists():
        with _alone(cache):
            if not directory.exists():  # else another run was first
                check(work)
                _build(directory, work, make(work))
    return Dataset(builder, classes, train_split, val_split, digest, directory)


@functools.cache
def _builder(directory: epath.Path, config: str) -> tfds.core.DatasetBuilder:
    """From the files alone: the lists of a large data set take gigabytes, and are let go."""
    return tfds.builder_from_directory(next(directory.glob(f"*/{config}/*")))


def _photos(build: tfds.core.DatasetBuilder, split: str) -> Any:
    decoders = {key: tfds.decode.SkipDecoding() for key in ("image", "saliency") if key in build.info.features}
    return build.as_data_source(split=split, decoders=decoders)


@contextlib.contextmanager
def _alone(cache: epath.Path) -> Iterator[None]:
    """One run prepares at a time; others wait, and say so."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(cache / ".lock", wait=False))
        except BlockingIOError:
            console.print(f"waiting for another run that prepares data in {cache}", markup=False)
            stack.enter_context(files.lock(cache / ".lock", wait=True))
        yield


def _build(directory: epath.Path, work: epath.Path, make: Callable) -> None:
    """Builds aside and renames: what is there is whole, whoever was killed. TFDS does not build again what it has finished."""
    aside = work / directory.name
    for config in (features.PHOTOS, features.MASKS):
        _download_and_prepare(make(config=config, data_dir=str(aside)))
    for half in aside.glob("*/*/*incomplete*"):  # of a build that was killed
        half.rmtree()
    # beside the records: whoever plans batches of whole photos would read every photo for its size
    build, sizes = make(config=features.PHOTOS, data_dir=str(aside)), {}
    for split in build.info.splits:
        source = _photos(build, split)
        sizes[split] = np.zeros((len(source), 2), np.int32)
        with progress(f"sizes of {split}", len(source), unit="photo") as bar:
            for index in range(len(source)):
                sizes[split][index] = source[index]["size"]
                bar.advance(1)
    buffer = io.BytesIO()
    np.savez(buffer, **sizes)
    files.write_bytes(aside / _SIZES, buffer.getvalue())
    aside.rename(directory)
    work.rmtree()


def num_classes(*, builder: str, root: str = "", **_: Any) -> int:
    """C of a data set, which need not be there but for `voc_folder`."""
    if builder == "voc_folder":
        faults: list[str] = []
        classes = voc_folder.read_classes(listing.find_root(root) / "classes.txt", faults)
        if faults:
            raise DataError(root, faults)
        return len(classes) - 1
    return {"shapes": len(shapes.CLASSES) - 1, "voc2012_wsss": len(voc2012.CLASSES) - 1, "coco2014_wsss": coco2014.NUM_CLASSES}[builder]


def source_of(builder: str) -> Callable:
    """The function of a builder that takes its cache and the fields of `config.data`: train_split, val_split and its own.

    It returns the classes, the digest, the name of a folder to work in, check(work), which raises what is wrong, and make(work): the
    TFDS builder but for config and data_dir.
    """
    if builder not in _SOURCES:
        raise ValueError(f"data.builder={builder!r} is not one of {', '.join(_SOURCES)}")
    return _SOURCES[builder]


def _download_and_prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it talks of downloads; there are none
        builder.download_and_prepare()


def _shapes(cache: epath.Path, *, train_split: str, val_split: str, seed: int, sizes, train_photos: int, val_photos: int):
    del cache
    arguments = {"seed": seed, "sizes": [tuple(s) for s in sizes], "counts": {train_split: train_photos, val_split: val_photos}}
    digest = hashlib.sha256(repr((arguments, str(shapes.Shapes.VERSION))).encode()).hexdigest()[:16]
    make = functools.partial(shapes.Shapes, **arguments, file_format="array_record")
    return shapes.CLASSES, digest, f"{digest}.work", lambda work: None, lambda work: make


def _voc_folder(cache: epath.Path, *, train_split: str, val_split: str, root: str, saliency: str, labels: str):
    del cache
    return _listed(builders.VocFolder, root, train_split, val_split, functools.partial(voc_folder.read, saliency=saliency, labels=labels))


def _voc2012(cache: epath.Path, *, train_split: str, val_split: str, root: str, saliency: str):
    if train_split == "test":
        raise ValueError("data.train_split=test: VOC's test photos have no labels")
    read = functools.partial(voc2012.read, saliency=saliency, unpack_dir=cache / "unpacked")
    return _listed(builders.Voc2012Wsss, root, train_split, val_split, read)


def _coco2014(cache: epath.Path, *, train_split: str, val_split: str, root: str, saliency: str):
    del cache
    return _listed(builders.Coco2014Wsss, root, train_split, val_split, functools.partial(coco2014.read, saliency=saliency))


def _listed(builder: type, root: str, train_split: str, val_split: str, read: Callable):
    if not root:
        raise ValueError("data.root is empty: name the folder, --config.data.root=DIR")
    listed, faults = read(root, list(dict.fromkeys([train_split, val_split])))
    if train_split != val_split:
        others = {photo.name for photo in listed.photos[val_split]}
        both = [photo.name for photo in listed.photos[train_split] if photo.name in others]
        faults += [f"{name}: is in split {train_split} and in split {val_split}" for name in both]

    def check(work: epath.Path) -> None:
        for remark in listed.remarks:
            console.print(f"{root}: {remark}", markup=False)
        there = listed.photos
        if faults:  # what is there is read all the same, so that everything is named at once
            there = {split: [photo.what_is_there() for photo in photos if photo.image.exists()] for split, photos in there.items()}
        if found := faults + pictures.check(dataclasses.replace(listed, photos=there), work):
            raise DataError(root, found)

    digest = "" if faults else hashlib.sha256(f"{listed.digest()} {builder.VERSION}".encode()).hexdigest()[:16]
    work = f"{hashlib.sha256(str(listed.root).encode()).hexdigest()[:16]}.work"  # of the folder, so that what was read outlives a mended fault

    def make(work: epath.Path) -> Callable:
        return functools.partial(builder, listing=listed, work=work, file_format="array_record")

    return listed.classes, digest or "faulty", work, check, make


_SOURCES = {"shapes": _shapes, "voc_folder": _voc_folder, "voc2012_wsss": _voc2012, "coco2014_wsss": _coco2014}
