"""`voc_folder`: any folder in VOC style as a data set.

JPEGImages/<id>.jpg                      or .jpeg, .png
Saliency/<id>.png                        8-bit grey, 0..255, size of the photo
SegmentationClass/<id>.png               optional, to evaluate: indexed or grey, 0 background, 1..C, 255 ignore
ImageSets/Segmentation/<split>.txt       one id a line
classes.txt                              one name a line, "background" first
image_labels.txt                         "<id> <class> <class> ..."; an id alone has no foreground class; other formats: see `data.labels`
"""

from collections.abc import Sequence

import numpy as np
from etils import epath

from auxseg_jax.data import labels as labels_lib
from auxseg_jax.data import listing


def read(root: str, splits: Sequence[str], *, saliency: str, labels: str) -> tuple[listing.Listing, list[str]]:
    """Reads the lists of `root` for the splits named, and checks that every file they name is there.

    Args:
      root: the folder.
      splits: names.
      saliency: see `listing.saliency_folders`.
      labels: file of image-level labels, relative to `root`.

    Returns:
      The listing, and every fault found.

    Raises:
      DataError: there is no such folder.
    """
    path = listing.find_root(root)
    faults: list[str] = []
    classes = read_classes(path / "classes.txt", faults)
    source = path / labels
    named, wrong = labels_lib.read(source) if source.exists() else ({}, [f"{labels}: there is no file {source}"])
    faults += wrong
    ids = {split: listing.read_split(path / "ImageSets" / "Segmentation" / f"{split}.txt", faults) for split in splits}
    if source.suffix == ".npy":
        named = labels_lib.with_ids(named, [name for names in ids.values() for name in names])
    vectors = labels_lib.vectors(named, classes, faults)
    everyone = [name for names in ids.values() for name in names]
    pictures = listing.file_names(path / "JPEGImages")
    image = {name: next((name + end for end in listing.PHOTO_ENDINGS if name + end in pictures), None) for name in everyone}
    faults += [f"{name}: split {split} names it, {labels} does not" for split in ids for name in ids[split] if source.exists() and name not in named]
    faults += [f"{name}: no photo JPEGImages/{name}.jpg" for name in everyone if image[name] is None]
    maps = listing.find_saliency(listing.saliency_folders(path, saliency), everyone, faults)
    painted = listing.file_names(path / "SegmentationClass")
    photos = {}
    for split, names in ids.items():
        without = [name for name in names if f"{name}.png" not in painted]
        has_masks = len(without) < len(names)
        if has_masks:
            faults += [f"{name}: no mask SegmentationClass/{name}.png, but other photos of split {split} have one" for name in without]
        photos[split] = [
            listing.Photo(
                name=name,
                image=path / "JPEGImages" / str(image[name]),
                labels=vectors.get(name, np.zeros(max(len(classes) - 1, 0), np.uint8)),
                saliency=maps[name],
                mask=path / "SegmentationClass" / f"{name}.png" if has_masks else None,
            )
            for name in names
        ]
    return listing.Listing(path, classes, photos), faults


def read_classes(path: epath.Path, faults: list[str]) -> tuple[str, ...]:
    """The names in classes.txt; what is wrong is added to `faults`."""
    names = tuple(line for _, line in listing.read_lines(path, faults))
    if names and names[0] != "background":
        faults.append(f"classes.txt: the first line must be 'background', found {names[0]!r}")
    if path.exists():
        faults += listing.class_faults(names, "classes.txt")
    faults += [f"classes.txt: {name!r} has a space in it, which image_labels.txt takes for the end of a name" for name in names if " " in name]
    return names
