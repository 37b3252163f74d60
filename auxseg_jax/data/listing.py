"""What a data set's own files say before a picture is opened: classes, photos, labels, paths."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath

from auxseg_jax.data import photo_names
from auxseg_jax.data.planes import GIVEN, GREY, NO_FOLDER, PLANES, Plane
from auxseg_jax.errors import UserError, fault, raise_faults
from auxseg_jax.files import storage
from auxseg_jax.pixel_labels import IGNORE


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of a COCO photo, from which its mask is painted.

    Attributes:
      size: (H, W).
      parts: (class index from 1, area in pixels, segmentation as the JSON has it) of each.
    """

    size: tuple[int, int]
    parts: tuple[tuple[int, float, list | dict], ...]


@dataclasses.dataclass(frozen=True)
class Photo:
    """Where the parts of one photo lie.

    Attributes:
      name: its id.
      image: JPEG or PNG.
      labels: uint8 [C], multi-hot over the foreground classes.
      planes: {plane: its files, one in each folder}, without the planes that the data set lacks.
      mask: an indexed PNG, a .mat of SBD, the objects it is painted from, or None.
    """

    name: str
    image: epath.Path
    labels: np.ndarray
    planes: Mapping[str, tuple[epath.Path, ...]] = dataclasses.field(default_factory=dict)
    mask: epath.Path | Objects | None = None

    @property
    def files(self) -> list[epath.Path]:
        """All its files."""
        mask = [self.mask] if isinstance(self.mask, epath.Path) else []
        return [self.image, *(path for paths in self.planes.values() for path in paths), *mask]

    def existing_part(self) -> "Photo":
        """Returns the photo without the files that are absent."""
        absent = isinstance(self.mask, epath.Path) and not self.mask.exists()
        planes = {
            plane: tuple(path for path in paths if path.exists())
            for plane, paths in self.planes.items()
        }
        return dataclasses.replace(self, planes=planes, mask=None if absent else self.mask)


@dataclasses.dataclass(frozen=True)
class Listing:
    """A data set as its lists have it.

    Attributes:
      root: its folder.
      classes: names, background first.
      photos: {split: photos in the order of its list}.
      lists: other files that were read.
      remarks: what a user should know although it is no fault.
      megapixels: photos of more are scaled down when they are built.
    """

    root: epath.Path
    classes: tuple[str, ...]
    photos: Mapping[str, Sequence[Photo]]
    lists: Sequence[epath.Path] = ()
    remarks: Sequence[str] = ()
    megapixels: float = math.inf

    @property
    def masks(self) -> tuple[str, ...]:
        """The splits that have pixel labels."""
        return tuple(
            split
            for split, photos in self.photos.items()
            if any(photo.mask is not None for photo in photos)
        )

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes that the data set brings."""
        photos = [photo for photos in self.photos.values() for photo in photos]
        return tuple(p.name for p in GIVEN if any(photo.planes.get(p.name) for photo in photos))

    def digest(self) -> str:
        """Returns a hash of the lists and of every file's state; it names the prepared copy.

        When it changes, everything is read again. Whether the data have changed is then told by
        the content, see `about.About.digest`.
        """
        header = (str(self.root), self.classes, tuple(self.photos), self.masks, self.megapixels)
        state = hashlib.sha256(repr(header).encode())
        for split, photos in self.photos.items():
            for photo in photos:
                state.update(f"{split} {photo.name}".encode() + photo.labels.tobytes())
        files = (photo.files for photos in self.photos.values() for photo in photos)
        for path in (path for group in (self.lists, *files) for path in group):
            state.update(file_state(path))
        return state.hexdigest()[:16]


def file_state(path: epath.Path) -> bytes:
    """Returns name, size and times of a file: whatever writes to it changes them."""
    if storage.is_remote(path):
        stat = path.stat()
        return f"{path} {stat.length} {stat.mtime}".encode()
    stat = os.stat(path)
    return os.fsencode(path) + f" {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}".encode()


def find_root(root: epath.PathLike) -> epath.Path:
    """Returns the folder of a data set, however it is spelled.

    Raises:
      UserError: there is no such folder.
    """
    path = epath.Path(root).expanduser().resolve()
    if not path.is_dir():
        raise_faults(root, ["there is no such folder (config.data.root)"])
    return path


def check_classes(classes: Sequence[str], where: str) -> None:
    """Reports what is wrong with the names of classes, background first.

    They are parts of file names and stand for the labels 0 to 254.
    """
    if not 2 <= len(classes) <= IGNORE:
        count = max(len(classes) - 1, 0)
        fault(f"{where}: needs 'background' and 1 to 254 classes beside it, found {count}")
    for name in classes:
        if not photo_names.is_id(name):
            fault(f"{where}: {name!r} cannot be a part of a file's name")
    for name in sorted({name for name in classes if classes.count(name) > 1}):
        fault(f"{where}: {name!r} stands there twice")


def read_class_names(path: epath.Path) -> tuple[str, ...]:
    """Returns the names of a list of classes, composed as those of labels are; reports faults."""
    return tuple(photo_names.compose(line) for _, line in read_lines(path))


def read_lines(path: epath.Path) -> list[tuple[int, str]]:
    """Returns (line number, stripped line) of the lines that are not empty; reports faults."""
    if not path.exists():
        fault(f"{path.name}: there is no file {path}")
        return []
    try:
        text = storage.read_text(path)
    except UserError as error:
        fault(f"{path.name}: {error}")
        return []
    lines = enumerate(text.splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_split(path: epath.Path) -> tuple[str, ...]:
    """Returns the ids of a list, one a line, each once; reports faults."""
    names: dict[str, None] = {}  # A set that keeps its order.
    lines = read_lines(path)
    for number, name in lines:
        where, name = f"{path.name} line {number}", photo_names.photo_id(name)
        if not photo_names.is_id(name):
            fault(f"{where}: {name!r} is not an id (a plain file name without folder and ending)")
        elif name in names:
            fault(f"{where}: {name} stands there twice")
        else:
            names[name] = None
    if not lines and path.exists():
        fault(f"{path.name}: names no photo")
    return tuple(names)


def check_disjoint(photos: Mapping[str, Sequence[Photo]], first: str, second: str) -> None:
    """Reports the photos that are in two splits."""
    if first == second:
        return
    others = {photo.name for photo in photos[second]}
    for photo in photos[first]:
        if photo.name in others:
            fault(f"{photo.name}: is in split {first} and in split {second}")


def find_planes(
    root: epath.Path, folders: Mapping[str, str], names: Iterable[str]
) -> dict[str, dict[str, tuple[epath.Path, ...]]]:
    """Finds the planes of photos; reports the files that are absent.

    Args:
      root: folder of the data set.
      folders: {plane: value of `data.<plane>`}: folders under `root`, separated by commas, or
        "none".
      names: ids of the photos.

    Returns:
      {id: {plane: its files, one in each folder}}.
    """
    files: dict[str, dict[str, tuple[epath.Path, ...]]] = {name: {} for name in names}
    for plane, value in folders.items():
        if value == NO_FOLDER:
            continue
        paths = [root / folder.strip() for folder in value.split(",")]
        if len(paths) > 1 and PLANES[plane].kind != GREY:
            fault(f"data.{plane}={value!r}: only planes of greys can be of several folders")
            continue
        found = [_find_plane(folder, PLANES[plane], list(files)) for folder in paths]
        for number, name in enumerate(files):
            files[name][plane] = tuple(names[number] for names in found)
    return files


def _find_plane(folder: epath.Path, plane: Plane, names: Sequence[str]) -> list[epath.Path]:
    """Returns the file of each photo; reports those that are absent."""
    suffix = plane.suffix
    listed = photo_names.files_by_id(folder, lambda name: name.lower().endswith(suffix))
    found = [photo_names.one_file(listed, name, folder) for name in names]
    paths = [folder / (file or f"{name}{suffix}") for name, file in zip(names, found, strict=True)]
    if names and not any(found):
        advice = f"{plane.advice}, " if plane.advice else ""
        fault(
            f"{folder}: no {plane.name} map <id>{suffix} of any photo; "
            f"{advice}data.{plane.name}={NO_FOLDER} does without"
        )
        return paths
    for name, file in zip(names, found, strict=True):
        if file is None:
            fault(f"{name}: no {plane.name} map {folder.name}/{name}{suffix}")
    return paths
