"""`voc_folder`: any folder in VOC style as a data set.

JPEGImages/<id>.jpg                      or .jpeg, .png
Saliency/<id>.png                        8-bit grey, 0..255, size of the photo
SegmentationClass/<id>.png               optional, to evaluate: indexed or grey, 0 background, 1..C,
                                         255 ignore
ImageSets/Segmentation/<split>.txt       one id a line
classes.txt                              one name a line, "background" first
image_labels.txt                         "<id> <class> <class> ..."; an id alone has no foreground
                                         class; for other formats see `data.label_tables`
"""

import shlex
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from auxseg_jax.data import label_tables, listing, photo_names
from auxseg_jax.errors import fault


def read(
    root: str, splits: Sequence[str], *, planes: Mapping[str, str], labels: str
) -> listing.Listing:
    """Reads the lists of `root`, and reports the faults in them and the files that are absent.

    Args:
      root: the folder.
      splits: their names.
      planes: {plane: folders}, see `listing.find_planes`.
      labels: file of image-level labels, relative to `root`.

    Raises:
      UserError: there is no such folder.
    """
    path = listing.find_root(root)
    classes = read_classes(path / "classes.txt")
    source = path / labels
    if source.exists():
        named = label_tables.read(source)
    else:
        named = {}
        fault(f"{labels}: there is no file {source}")
    ids = {
        split: listing.read_split(path / "ImageSets" / "Segmentation" / f"{split}.txt")
        for split in splits
    }
    if source.suffix == ".npy":
        named = label_tables.with_ids(named, [name for names in ids.values() for name in names])
    vectors = label_tables.vectors(named, classes)
    if source.exists():
        for split, names in ids.items():
            for name in names:
                if name not in named:
                    fault(f"{name}: split {split} names it, {labels} does not")
    everyone = [name for names in ids.values() for name in names]
    images = _find_images(path / "JPEGImages", everyone)
    files_of = listing.find_planes(path, planes, everyone)
    none = np.zeros(max(len(classes) - 1, 0), np.uint8)
    photos = {}
    for split, names in ids.items():
        masks = _find_masks(path / "SegmentationClass", names)
        photos[split] = [
            listing.Photo(name, images[name], vectors.get(name, none), files_of[name], masks[name])
            for name in names
        ]
    return listing.Listing(path, classes, photos, remarks=_remarks(photos))


def _find_images(folder: epath.Path, names: Sequence[str]) -> dict[str, epath.Path]:
    files = photo_names.files_by_id(folder, photo_names.is_photo)
    images = {}
    for name in names:
        file = photo_names.one_file(files, name, folder)
        if file is None:
            fault(f"{name}: no photo JPEGImages/{name}.jpg")
        images[name] = folder / str(file)
    if names and not any(name in files for name in names) and is_flat(folder.parent):
        fault(f"the photos lie in {folder.parent} itself; {move_advice(folder.parent)}")
    return images


def is_flat(root: epath.Path) -> bool:
    """Returns whether photos lie in the folder of a data set itself."""
    return any(map(photo_names.is_photo, photo_names.file_names(root)))


def move_advice(root: epath.Path) -> str:
    """Returns what to do with the photos of such a folder."""
    endings = {name.rpartition(".")[2] for name in photo_names.file_names(root)}
    photos = sorted(ending for ending in endings if photo_names.is_photo(f".{ending}"))
    folder = shlex.quote(str(root))
    patterns = " ".join(f"{folder}/*.{ending}" for ending in photos)
    return f"move them: mkdir {folder}/JPEGImages; mv {patterns} {folder}/JPEGImages/"


def _find_masks(folder: epath.Path, names: Sequence[str]) -> dict[str, epath.Path | None]:
    """Finds the masks of a split; a split without any has none to evaluate with."""
    files = photo_names.files_by_id(folder, lambda name: name.lower().endswith(".png"))
    found = {name: photo_names.one_file(files, name, folder) for name in names}
    return {name: folder / file if file else None for name, file in found.items()}


def _remarks(photos: Mapping[str, Sequence[listing.Photo]]) -> list[str]:
    remarks = []
    for split, members in photos.items():
        absent = [photo.name for photo in members if photo.mask is None]
        if absent and len(absent) < len(members):
            remarks.append(
                f"{len(members) - len(absent)} of the {len(members)} photos of {split} have a mask "
                f"SegmentationClass/<id>.png, and are scored; {absent[0]} is the first without"
            )
    return remarks


def read_classes(path: epath.Path) -> tuple[str, ...]:
    """Returns the names in classes.txt; reports faults."""
    names = listing.read_class_names(path)
    if names and names[0] != "background":
        fault(f"classes.txt: the first line must be 'background', found {names[0]!r}")
    if path.exists():
        listing.check_classes(names, "classes.txt")
    return names
