"""Makes a folder of photos and a table of labels a data set for the builder `voc_folder`."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from auxseg_jax.data import label_tables, listing
from auxseg_jax.errors import collect, fault, raise_faults
from auxseg_jax.files import storage


@dataclasses.dataclass(frozen=True)
class Layout:
    """What `lay_out` did.

    Attributes:
      written: {list: number of lines} of the lists that were not there already.
      unlabelled: ids of the photos that were left out, because the labels do not name them.
    """

    written: dict[str, int]
    unlabelled: list[str]


def lay_out(
    root: epath.PathLike,
    labels: label_tables.Labels,
    classes: Sequence[str] | None,
    val_share: float,
) -> Layout:
    """Writes classes.txt, image_labels.txt and the lists of two splits beside the photos.

    Args:
      root: folder that holds JPEGImages.
      labels: see `label_tables.read`; photos without an entry are left out.
      classes: background first; None: all that `labels` name, sorted.
      val_share: share of the photos in the split val, spread evenly over the sorted ids. At least
        one photo is in each split.

    Raises:
      UserError: photos and labels do not fit, or a list is there and says something else; nothing
        is written then.
    """
    root = epath.Path(root)
    with collect(root):
        stems = _photo_stems(root / "JPEGImages")
        if stems:
            for name in sorted(set(labels) - stems):
                fault(f"{name}: has labels, but there is no photo JPEGImages/{name}.jpg")
        named = label_tables.class_names(labels, classes)
        if classes is None:
            every = {label for value in named.values() for label in value}
            classes = ["background", *sorted(every)]
        listing.check_classes(classes, "classes")
        for name in classes:
            if len(name.split()) > 1:
                fault(
                    f"the class {name!r} has a blank in it, "
                    "and image_labels.txt parts names by blanks"
                )
        ids = sorted(set(named) & stems)
        if not 0 < val_share < 1 or len(ids) < 2:
            fault(
                f"{len(ids)} photos, of which {val_share} for validation: "
                "expected two or more, and a share between 0 and 1"
            )
    every_nth = min(max(round(1 / val_share), 2), len(ids))
    lists = {
        "classes.txt": list(classes),
        "image_labels.txt": [" ".join([name, *named[name]]) for name in ids],
        "ImageSets/Segmentation/train.txt": [n for k, n in enumerate(ids, 1) if k % every_nth],
        "ImageSets/Segmentation/val.txt": [n for k, n in enumerate(ids, 1) if not k % every_nth],
    }
    return Layout(_write_lists(root, lists), sorted(stems - set(named)))


def _photo_stems(folder: epath.Path) -> set[str]:
    files = listing.file_names(folder)
    stems = {name.rsplit(".", 1)[0] for name in files if name.endswith(listing.PHOTO_ENDINGS)}
    if not stems:
        fault(f"there is no photo in {folder}")
    for name in sorted(files):
        if not listing.is_id(name):
            fault(f"JPEGImages/{name}: its name has a blank in it")
    return stems


def _write_lists(root: epath.Path, lists: dict[str, list[str]]) -> dict[str, int]:
    """Writes the lists that are absent; returns their numbers of lines."""
    texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}
    existing = {name: (root / name).read_text() for name in lists if (root / name).exists()}
    different = [name for name, text in existing.items() if text != texts[name]]
    advice = "is there already, and would be written otherwise; delete it first"
    raise_faults(root, [f"{name} {advice}" for name in different])
    absent = [name for name in lists if name not in existing]
    for name in absent:
        storage.write_bytes(root / name, texts[name].encode())
    return {name: len(lists[name]) for name in absent}
