"""The builders of data sets by name: what each takes from `config.data`, and how it is prepared.

To add a builder, write its reader (as `data.voc_folder`), a class in `data.builders`, an entry in
`SOURCES`, and its fields in `configs/fields.py`.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax.data import (
    about,
    builders,
    coco2014,
    listing,
    pictures,
    shapes,
    voc2012,
    voc_folder,
)
from auxseg_jax.data.planes import GIVEN, NO_FOLDER, Plane
from auxseg_jax.errors import UserError, collect, fault


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before it is prepared.

    Attributes:
      classes: reads their names, background first.
      digest: hash of all that it is made from; it names the prepared copy.
      work: name of a folder for the work of the preparation, which outlives a mended fault.
      check: check(folder) looks at every file, and raises UserError with all that is wrong. It
        returns where parts of the data contradict one another, and what else a user should know.
      make_builder: make_builder(folder, config=, data_dir=) returns the TFDS builder.
    """

    classes: Callable[[], tuple[str, ...]]
    digest: str
    work: str
    check: Callable[[epath.Path], tuple[list[str], list[str]]]
    make_builder: Callable[..., tfds.core.DatasetBuilder]


class Entry(NamedTuple):
    """A data set in the table.

    Attributes:
      make: (cache folder, fields of config.data) -> Source.
      classes: folder of the data set -> names, background first.
      generated_planes: the planes that it makes itself.
    """

    make: Callable[..., Source]
    classes: Callable[[str], Sequence[str]]
    generated_planes: tuple[str, ...] = ()


def find_source(builder: str) -> Callable[..., Source]:
    """Returns the function of a builder: (cache folder, fields of config.data) -> Source.

    Raises:
      UserError: there is no builder of that name.
    """
    if builder not in SOURCES:
        raise UserError(f"data.builder={builder!r} is not one of {', '.join(SOURCES)}")
    return SOURCES[builder].make


def num_classes(*, builder: str, prepared: str = "", root: str = "", **_: Any) -> int:
    """Returns C of a data set, which need not be there, unless it is a `voc_folder`."""
    classes = about.read(prepared).classes if prepared else SOURCES[builder].classes(root)
    return len(classes) - 1


def planes(*, builder: str, prepared: str = "", **fields: Any) -> list[Plane]:
    """Returns the planes that a data set brings with its photos."""
    if prepared:
        return [plane for plane in GIVEN if plane.name in about.read(prepared).planes]
    generated = SOURCES[builder].generated_planes
    return [p for p in GIVEN if p.name in generated or fields.get(p.name, NO_FOLDER) != NO_FOLDER]


def _shapes(
    cache: epath.Path,
    *,
    train_split: str,
    val_split: str,
    seed: int,
    sizes: Sequence[tuple[int, int]],
    train_photos: int,
    val_photos: int,
    megapixels: float,
) -> Source:
    del cache, megapixels  # They are generated at their sizes.
    arguments = {
        "seed": seed,
        "sizes": [tuple(size) for size in sizes],
        "counts": {train_split: train_photos, val_split: val_photos},
    }
    key = repr((arguments, str(shapes.Shapes.VERSION)))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]

    def make_builder(work: epath.Path, **kwargs) -> shapes.Shapes:
        del work
        return shapes.Shapes(**arguments, file_format="array_record", **kwargs)

    return Source(
        lambda: shapes.CLASSES, digest, f"{digest}.work", lambda work: ([], []), make_builder
    )


def _voc_folder(
    cache: epath.Path,
    *,
    train_split: str,
    val_split: str,
    root: str,
    labels: str,
    megapixels: float,
    **planes: str,
) -> Source:
    del cache
    read = functools.partial(voc_folder.read, labels=labels, planes=_folders(planes))
    return _from_files(builders.VocFolder, root, (train_split, val_split), read, megapixels)


def _voc2012(
    cache: epath.Path,
    *,
    train_split: str,
    val_split: str,
    root: str,
    megapixels: float,
    **planes: str,
) -> Source:
    if train_split == "test":
        raise UserError("data.train_split=test: VOC's test photos have no labels")
    folders, unpack_dir = _folders(planes), cache / "unpacked"
    read = functools.partial(voc2012.read, planes=folders, unpack_dir=unpack_dir)
    return _from_files(builders.Voc2012Wsss, root, (train_split, val_split), read, megapixels)


def _coco2014(
    cache: epath.Path,
    *,
    train_split: str,
    val_split: str,
    root: str,
    megapixels: float,
    **planes: str,
) -> Source:
    del cache
    folders, splits = _folders(planes), (train_split, val_split)
    read = functools.partial(coco2014.read, planes=folders)
    state = functools.partial(coco2014.state, root, splits, folders)
    return _from_files(builders.Coco2014Wsss, root, splits, read, megapixels, state)


def _folders(planes: Mapping[str, str]) -> dict[str, str]:
    """Returns the folders of each given plane, in the order of the table."""
    return {plane.name: planes[plane.name] for plane in GIVEN if plane.name in planes}


def _from_files(
    builder: type,
    root: str,
    splits: tuple[str, str],
    read: Callable,
    megapixels: float,
    state: Callable[[], str] | None = None,
) -> Source:
    """Returns the source of a data set that comes as files.

    Args:
      builder: of TFDS.
      root: folder of the data set.
      splits: the splits to train and to evaluate on.
      read: reads the lists.
      megapixels: see `listing.Listing`.
      state: hash of the state of all files, where that is much quicker than to read the lists.
    """
    if not root:
        raise UserError("data.root is empty: name the folder, --config.data.root=DIR")

    @functools.cache
    def read_all() -> tuple[listing.Listing, list[str]]:
        with collect() as faults:
            listed = read(root, list(dict.fromkeys(splits)))
            listing.check_disjoint(listed.photos, *splits)
        return dataclasses.replace(listed, megapixels=megapixels or math.inf), faults

    def check(work: epath.Path) -> tuple[list[str], list[str]]:
        listed, faults = read_all()
        with collect(root):
            for message in faults:
                fault(message)
            pictures.check(_existing_part(listed) if faults else listed, work)
        with collect() as contradictions:
            remarks = [*listed.remarks, *pictures.judge(listed, work)]
        return contradictions, remarks

    def digest() -> str:
        if state:
            key = f"{state()} {megapixels}"
        else:
            listed, faults = read_all()
            if faults:
                return "faulty"
            key = listed.digest()
        return hashlib.sha256(f"{key} {builder.VERSION}".encode()).hexdigest()[:16]

    # Named by the folder, so that what was read is found again when a fault is mended.
    work = f"{hashlib.sha256(str(listing.find_root(root)).encode()).hexdigest()[:16]}.work"

    def make_builder(work: epath.Path, **kwargs) -> tfds.core.DatasetBuilder:
        return builder(listing=read_all()[0], work=work, file_format="array_record", **kwargs)

    return Source(lambda: read_all()[0].classes, digest(), work, check, make_builder)


def _existing_part(listed: listing.Listing) -> listing.Listing:
    """Returns what is there of a faulty listing, so that its pictures are looked at, too."""
    photos = {
        split: [photo.existing_part() for photo in photos if photo.image.exists()]
        for split, photos in listed.photos.items()
    }
    return dataclasses.replace(listed, photos=photos)


def _read_classes(root: str) -> Sequence[str]:
    with collect(root):
        return voc_folder.read_classes(listing.find_root(root) / "classes.txt")


SOURCES: dict[str, Entry] = {
    "shapes": Entry(_shapes, lambda root: shapes.CLASSES, shapes.PLANES),
    "voc_folder": Entry(_voc_folder, _read_classes),
    "voc2012_wsss": Entry(_voc2012, lambda root: voc2012.CLASSES),
    "coco2014_wsss": Entry(_coco2014, lambda root: ("",) * (coco2014.NUM_CLASSES + 1)),
}
