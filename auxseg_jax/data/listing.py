"""What a data set's own files say before a picture is opened: classes, photos, labels, and where the pictures lie."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath

from auxseg_jax import files

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_SHOWN = 200  # faults, of all that are counted


class DataError(ValueError):
    """Everything that is wrong with a data set, one fault a line."""

    def __init__(self, root: epath.PathLike, faults: Sequence[str]):
        shown = [*faults[:_SHOWN], *([f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else [])]
        super().__init__("\n  ".join([f"{root} cannot be used, {len(faults)} fault{'s' if len(faults) > 1 else ''}:", *shown]))
        self.faults = list(faults)


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects of a COCO photo, from which its mask is painted.

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
      saliency: 8-bit grey maps, averaged; none: the data set has none.
      mask: an indexed PNG, a .mat of SBD, the objects it is painted from, or None.
    """

    name: str
    image: epath.Path
    labels: np.ndarray
    saliency: tuple[epath.Path, ...] = ()
    mask: epath.Path | Objects | None = None

    @property
    def files(self) -> list[epath.Path]:
        """All files of it."""
        return [self.image, *self.saliency, *([self.mask] if isinstance(self.mask, epath.Path) else [])]

    def what_is_there(self) -> "Photo":
        """Without the files that are absent."""
        absent = isinstance(self.mask, epath.Path) and not self.mask.exists()
        return dataclasses.replace(self, saliency=tuple(p for p in self.saliency if p.exists()), mask=None if absent else self.mask)


@dataclasses.dataclass(frozen=True)
class Listing:
    """A data set as its lists have it.

    Attributes:
      root: its folder.
      classes: names, background first.
      photos: {split: photos in the order of its list}.
      lists: other files that were read.
      remarks: what a user should know and that is no fault.
    """

    root: epath.Path
    classes: tuple[str, ...]
    photos: Mapping[str, Sequence[Photo]]
    lists: Sequence[epath.Path] = ()
    remarks: Sequence[str] = ()

    @property
    def masks(self) -> tuple[str, ...]:
        """The splits that have pixel labels."""
        return tuple(split for split, photos in self.photos.items() if any(photo.mask is not None for photo in photos))

    @property
    def saliency(self) -> bool:
        """Whether there are saliency maps."""
        return any(photo.saliency for photos in self.photos.values() for photo in photos)

    def digest(self) -> str:
        """Hash of the lists and of every file's name, size and time: the prepared copy is stale when it changes."""
        state = hashlib.sha256(repr((str(self.root), self.classes, tuple(self.photos), self.masks)).encode())
        for split, photos in self.photos.items():
            for photo in photos:
                state.update(f"{split} {photo.name}".encode() + photo.labels.tobytes())
        everything = (photo.files for photos in self.photos.values() for photo in photos)
        for path in (path for group in (self.lists, *everything) for path in group):
            state.update(file_state(path))
        return state.hexdigest()[:16]


def file_state(path: epath.Path) -> bytes:
    """Name, size and time of a file, by which it is known."""
    stat = path.stat()
    return f"{path} {stat.length} {stat.mtime}".encode()


def find_root(root: epath.PathLike) -> epath.Path:
    """The folder of a data set, however it is spelled; DataError if there is none."""
    path = epath.Path(root).expanduser().resolve()
    if not path.is_dir():
        raise DataError(root, ["there is no such folder (config.data.root)"])
    return path


def by_stem(paths: Iterable[epath.PathLike]) -> dict[str, epath.Path]:
    """{name without ending: path}; ValueError if what is made of two photos would be written to one file."""
    stems: dict[str, epath.Path] = {}
    for path in map(epath.Path, paths):
        if path.stem in stems:
            raise ValueError(f"{path} and {stems[path.stem]} would both be written to {path.stem}.png")
        stems[path.stem] = path
    return stems


def is_id(name: str) -> bool:
    """Whether `name` is a plain file name, without folder and blanks."""
    return not ("/" in name or "\\" in name or name in ("", ".", "..") or len(name.split()) != 1)


def class_faults(classes: Sequence[str], where: str) -> list[str]:
    """What is wrong with names of classes, background first: they name files and stand for labels 0 to 254."""
    faults = [] if 2 <= len(classes) <= files.IGNORE else [f"{where}: needs 'background' and 1 to 254 classes, found {len(classes)}"]
    faults += [f"{where}: {name!r} cannot be a part of a file's name" for name in classes if not name.strip() or "/" in name or "\\" in name]
    return faults + [f"{where}: {name!r} stands there twice" for name in sorted({n for n in classes if classes.count(n) > 1})]


def read_lines(path: epath.Path, faults: list[str]) -> list[tuple[int, str]]:
    """(line number, stripped line) of the lines that are not empty; what is wrong with the file is added to `faults`."""
    if not path.exists():
        faults.append(f"{path.name}: there is no file {path}")
        return []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(f"{path.name}: not a text file ({error})")
        return []
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_split(path: epath.Path, faults: list[str]) -> tuple[str, ...]:
    """The ids of a list, one a line, each once."""
    names: dict[str, None] = {}  # a set that keeps its order
    lines = read_lines(path, faults)
    for number, name in lines:
        if not is_id(name):
            faults.append(f"{path.name} line {number}: {name!r} is not an id (a plain file name without folder and ending)")
        elif name in names:
            faults.append(f"{path.name} line {number}: {name} stands there twice")
        else:
            names[name] = None
    if not lines and path.exists():
        faults.append(f"{path.name}: names no photo")
    return tuple(names)


def file_names(path: epath.Path) -> set[str]:
    """Names of the files in a folder; not of links that lead nowhere."""
    return {p.name for p in path.iterdir() if p.exists()} if path.is_dir() else set()


def saliency_folders(root: epath.Path, folders: str) -> list[epath.Path]:
    """The folders of saliency maps that `config.data.saliency` names: relative to `root`, separated by commas; "none": no folder."""
    return [] if folders == "none" else [root / folder.strip() for folder in folders.split(",")]


def find_saliency(folders: Sequence[epath.Path], names: Iterable[str], faults: list[str]) -> dict[str, tuple[epath.Path, ...]]:
    """{id: its maps, one of each folder}; what is not there is added to `faults`."""
    names = list(names)
    for folder in folders:
        listed = file_names(folder)
        if names and not any(f"{name}.png" in listed for name in names):
            faults.append(
                f"{folder}: no saliency map <id>.png of any photo; python -m auxseg_jax.data.saliency makes them, data.saliency=none does without"
            )
            continue
        faults += [f"{name}: no saliency map {folder.name}/{name}.png" for name in names if f"{name}.png" not in listed]
    return {name: tuple(folder / f"{name}.png" for folder in folders) for name in names}
