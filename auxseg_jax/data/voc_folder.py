"""`voc_folder`: any folder in VOC style as a data set.

JPEGImages/<id>.jpg
Saliency/<id>.png                        8-bit grey, 0..255, size of the photo
SegmentationClass/<id>.png               optional, to evaluate: indexed or grey, 0 background, 1..C, 255 ignore
ImageSets/Segmentation/<split>.txt       one id a line
classes.txt                              one name a line, "background" first
image_labels.txt                         "<id> <class> <class> ..."; an id alone has no foreground class
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax import files
from auxseg_jax.data import features


class DataError(ValueError):
    """Everything that is wrong with a data folder, one fault a line."""

    def __init__(self, root: epath.PathLike, faults: Sequence[str]):
        super().__init__("\n  ".join([f"{root} cannot be used, {len(faults)} fault{'s' if len(faults) > 1 else ''}:", *faults]))
        self.faults = list(faults)


@dataclasses.dataclass(frozen=True)
class Folder:
    """The lists of a folder, read and checked; the pictures are not opened yet.

    Attributes:
      root: the folder.
      classes: names, background first.
      ids: {split: ids in the order of the file}.
      labels: {id: uint8 [C] multi-hot}.
      masks: the splits that have pixel labels.
    """

    root: epath.Path
    classes: tuple[str, ...]
    ids: dict[str, tuple[str, ...]]
    labels: dict[str, np.ndarray]
    masks: tuple[str, ...]

    def photo(self, name: str) -> epath.Path:
        """Path of a photo."""
        return self.root / "JPEGImages" / f"{name}.jpg"

    def saliency(self, name: str) -> epath.Path:
        """Path of a saliency map."""
        return self.root / "Saliency" / f"{name}.png"

    def mask(self, name: str) -> epath.Path:
        """Path of a mask."""
        return self.root / "SegmentationClass" / f"{name}.png"

    def digest(self) -> str:
        """Hash of the lists and of every file's name, size and time: the prepared copy is stale when it changes."""
        state = hashlib.sha256(repr((str(self.root), self.classes, self.ids, self.masks, str(VocFolder.VERSION))).encode())
        for name in sorted(self.labels):
            state.update(name.encode() + self.labels[name].tobytes())
        for split, names in self.ids.items():
            for name in names:
                for path in (self.photo(name), self.saliency(name), *([self.mask(name)] if split in self.masks else [])):
                    stat = path.stat()
                    state.update(f"{path.name} {stat.length} {stat.mtime}".encode())
        return state.hexdigest()[:16]


def read_folder(root: str, splits: Sequence[str]) -> tuple[Folder, list[str]]:
    """Reads the lists of `root` for the splits named, and checks that every file they name is there.

    Returns:
      The folder, and every fault found.

    Raises:
      DataError: there is no such folder.
    """
    path = epath.Path(root).expanduser().resolve()  # however it is spelled, it is prepared once
    if not path.is_dir():
        raise DataError(root, ["there is no such folder (config.data.root)"])
    faults: list[str] = []
    classes = _read_classes(path / "classes.txt", faults)
    labels = _read_labels(path / "image_labels.txt", classes, faults)
    ids = {split: _read_split(path / "ImageSets" / "Segmentation" / f"{split}.txt", faults) for split in splits}
    for a, b in [(a, b) for i, a in enumerate(ids) for b in list(ids)[i + 1 :]]:
        others = set(ids[b])
        faults += [f"{name}: is in split {a} and in split {b}" for name in ids[a] if name in others]
    folder = Folder(path, classes, ids, labels, ())
    listed = {kind: _names(path / kind) for kind in ("JPEGImages", "Saliency", "SegmentationClass")}
    with_masks = []
    for split, names in ids.items():
        for name in names:
            if name not in labels and (path / "image_labels.txt").exists():
                faults.append(f"{name}: split {split} names it, image_labels.txt does not")
            if f"{name}.jpg" not in listed["JPEGImages"]:
                faults.append(f"{name}: no photo JPEGImages/{name}.jpg")
            if f"{name}.png" not in listed["Saliency"]:
                faults.append(f"{name}: no saliency map Saliency/{name}.png")
        without = [name for name in names if f"{name}.png" not in listed["SegmentationClass"]]
        if len(without) < len(names):
            with_masks.append(split)
            faults += [f"{name}: no mask SegmentationClass/{name}.png, but other photos of split {split} have one" for name in without]
    return dataclasses.replace(folder, masks=tuple(with_masks)), faults


def picture_faults(folder: Folder) -> list[str]:
    """Decodes every photo, saliency map and mask that is there, and returns every fault found."""
    jobs = [(folder, name, split in folder.masks) for split, names in folder.ids.items() for name in names]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [fault for found in pool.map(lambda job: _picture_faults(*job), jobs) for fault in found]


def _picture_faults(folder: Folder, name: str, has_mask: bool) -> list[str]:
    faults, size = [], None
    try:
        size = features.check_image(folder.photo(name).read_bytes())
    except FileNotFoundError:
        pass  # read_folder has said so
    except (OSError, ValueError) as error:
        faults.append(f"{name}: JPEGImages/{name}.jpg cannot be read: {error}")
    for path in [folder.saliency(name)] + [folder.mask(name)] * has_mask:
        where = f"{name}: {path.parent.name}/{path.name}"
        if not path.exists():
            continue
        try:
            plane = files.decode_plane(path.read_bytes(), grey=path == folder.saliency(name))
        except (OSError, ValueError) as error:
            faults.append(f"{where} cannot be read: {error}")
            continue
        if size is not None and plane.shape != size:
            faults.append(f"{where} is {plane.shape[1]}x{plane.shape[0]}, the photo {size[1]}x{size[0]}")
        if path == folder.mask(name):
            strange = np.setdiff1d(plane, [*range(len(folder.classes)), files.IGNORE])
            if strange.size:
                faults.append(f"{where} holds class indices {strange[:5].tolist()}; classes.txt ends at {len(folder.classes) - 1}")
    return faults


def _names(path: epath.Path) -> set[str]:
    """Names of the files in a folder; not of links that lead nowhere."""
    return {p.name for p in path.iterdir() if p.exists()} if path.is_dir() else set()


def _is_id(name: str) -> bool:
    return not ("/" in name or "\\" in name or name in (".", "..") or len(name.split()) != 1)


def _read_lines(path: epath.Path, faults: list[str]) -> list[tuple[int, str]]:
    """(line number, stripped line) of the lines that are not empty."""
    if not path.exists():
        faults.append(f"{path.name}: there is no file {path}")
        return []
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        faults.append(f"{path.name}: not a text file ({error})")
        return []
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _read_classes(path: epath.Path, faults: list[str]) -> tuple[str, ...]:
    names = tuple(line for _, line in _read_lines(path, faults))
    if names and names[0] != "background":
        faults.append(f"classes.txt: the first line must be 'background', found {names[0]!r}")
    if path.exists() and not 2 <= len(names) <= files.IGNORE:
        faults.append(f"classes.txt: needs 'background' and 1 to 254 classes, found {len(names)} lines")
    faults += [f"classes.txt: {name!r} has a space in it, which image_labels.txt takes for the end of a name" for name in names if " " in name]
    faults += [f"classes.txt: {name!r} stands there twice" for name in sorted({n for n in names if names.count(n) > 1})]
    return names


def _read_labels(path: epath.Path, classes: tuple[str, ...], faults: list[str]) -> dict[str, np.ndarray]:
    labels: dict[str, np.ndarray] = {}
    for number, line in _read_lines(path, faults):
        name, *present = line.split()
        where = f"image_labels.txt line {number}"
        if not _is_id(name):
            faults.append(f"{where}: {name!r} is not an id (a plain file name without folder and ending)")
            continue
        if name in labels:
            faults.append(f"{where}: {name} has a line already")
        labels[name] = np.zeros(max(len(classes) - 1, 0), np.uint8)
        for label in present:
            if label in classes[1:]:
                labels[name][classes.index(label) - 1] = 1
            elif classes:
                faults.append(f"{where}: {name} has the class {label!r}, which classes.txt does not name")
    return labels


def _read_split(path: epath.Path, faults: list[str]) -> tuple[str, ...]:
    names: dict[str, None] = {}  # a set that keeps its order
    lines = _read_lines(path, faults)
    for number, name in lines:
        if not _is_id(name):
            faults.append(f"{path.name} line {number}: {name!r} is not an id (a plain file name without folder and ending)")
        elif name in names:
            faults.append(f"{path.name} line {number}: {name} stands there twice")
        else:
            names[name] = None
    if not lines and path.exists():
        faults.append(f"{path.name}: names no photo")
    return tuple(names)


class VocFolder(tfds.core.GeneratorBasedBuilder):
    """See the module. `folder` is what `read_folder` gave."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = features.builder_configs()

    def __init__(self, *, folder: Folder, **kwargs):
        self._folder = folder
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.dataset_info(self, self._folder.classes, "jpeg")

    def _split_generators(self, dl_manager) -> dict:
        masks_only = self.builder_config.name == features.MASKS
        splits = self._folder.masks if masks_only else tuple(self._folder.ids)
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        folder = self._folder
        for name in folder.ids[split]:
            if self.builder_config.name == features.MASKS:
                mask = files.read_plane(folder.mask(name))
                yield name, {"id": name, "segmentation": features.encode_png(mask)}
            else:
                saliency = files.read_plane(folder.saliency(name))
                yield (
                    name,
                    {
                        "id": name,
                        "image": folder.photo(name).read_bytes(),
                        "labels": folder.labels[name],
                        "saliency": features.encode_png(saliency),
                        "size": np.array(saliency.shape, np.int32),
                    },
                )
