"""Makes a folder of photos and a table of labels a data set for the builder `voc_folder`."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from auxseg_jax.data import label_tables, listing, photo_names, voc_folder
from auxseg_jax.errors import collect, fault, raise_faults
from auxseg_jax.files import storage


@dataclasses.dataclass(frozen=True)
class Layout:
    """What `lay_out` did.

    Attributes:
      written: {list: number of lines} of the lists that were not there already.
      named: {id: classes} of the photos that are in it.
      unlabelled: ids of the photos that were left out, because the labels do not name them.
    """

    written: dict[str, int]
    named: dict[str, list[str]]
    unlabelled: list[str]


def lay_out(
    root: epath.PathLike,
    labels: label_tables.Labels,
    classes: Sequence[str] | None,
    val_share: float,
    seed: int = 0,
    force: bool = False,
) -> Layout:
    """Writes classes.txt, image_labels.txt and the lists of two splits beside the photos.

    Args:
      root: folder that holds JPEGImages.
      labels: see `label_tables.read`; photos without an entry are left out.
      classes: background first; None: all that `labels` name, sorted.
      val_share: share of the photos in the split val, see `stratify`.
      seed: seed of the splits.
      force: replace lists that are there and say something else.

    Raises:
      UserError: photos and labels do not fit, or a list is there and says something else; nothing
        is written then.
    """
    root = epath.Path(root)
    with collect(root):
        photos = _photos(root)
        if photos:
            others = _other_pictures(root / "JPEGImages")
            for name in sorted(set(labels) - photos):
                found = [other for other in others if name in (other, other.rpartition(".")[0])]
                advice = f"; {found[0]} is of another format: convert it" if found else ""
                fault(f"{name}: has labels, but there is no photo JPEGImages/{name}.jpg{advice}")
        named = label_tables.class_names(labels, classes)
        if classes is None:
            every = {label for value in named.values() for label in value}
            classes = ["background", *sorted(every)]
        listing.check_classes(classes, "classes")
        ids = sorted(set(named) & photos)
        if not 0 < val_share < 1 or len(ids) < 2:
            fault(
                f"{len(ids)} photos, of which {val_share} for validation: "
                "expected two or more, and a share between 0 and 1"
            )
    chosen = _kept_split(root, ids) if force else None
    if chosen is None:
        chosen = stratify({name: named[name] for name in ids}, val_share, seed)
    lists = {
        "classes.txt": list(classes),
        "image_labels.txt": label_tables.text_lines({name: named[name] for name in ids}),
        "ImageSets/Segmentation/train.txt": [name for name in ids if name not in chosen],
        "ImageSets/Segmentation/val.txt": [name for name in ids if name in chosen],
    }
    written = _write_lists(root, lists, force)
    return Layout(written, {name: named[name] for name in ids}, sorted(photos - set(named)))


def stratify(labels: Mapping[str, Sequence[str]], share: float, seed: int) -> set[str]:
    """Chooses photos for validation, so that every class has about its share there.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): the photos of the
    rarest class are dealt out first, each to the split that still lacks most of its class. A class
    of a single photo is trained; one of two or more has a photo in both splits, where exchanging
    two photos brings that about.

    Args:
      labels: {id: classes}.
      share: of the photos, in 0..1; at least one photo is in each split.
      seed: seed of the order in which photos of one class are dealt out.

    Returns:
      The ids for validation, round(share * n) of them.
    """
    names = sorted(labels)
    np.random.default_rng(seed).shuffle(names)
    total = min(max(round(share * len(names)), 1), len(names) - 1)
    room = {True: total, False: len(names) - total}
    of_class: dict[str, list[str]] = {}
    for name in names:
        for c in labels[name]:
            of_class.setdefault(c, []).append(name)
    wanted = {c: share * len(photos) for c, photos in of_class.items()}
    # A class that comes twice or more is both trained and validated.
    wanted = {c: max(w, 1.0) if len(of_class[c]) > 1 else 0.0 for c, w in wanted.items()}
    lacking = {True: wanted, False: {c: len(of_class[c]) - w for c, w in wanted.items()}}
    left, chosen = dict.fromkeys(names), set()
    counts = {c: len(photos) for c, photos in of_class.items()}
    while left:
        rarest = min((c for c in counts if counts[c]), key=lambda c: (counts[c], c), default=None)
        for name in [name for name in of_class.get(rarest, names) if name in left]:
            to_val = room[True] > 0 and (
                not room[False]
                or (lacking[True].get(rarest, room[True]) / max(total, 1))
                >= (lacking[False].get(rarest, room[False]) / max(len(names) - total, 1))
            )
            room[to_val] -= 1
            for c in labels[name]:
                lacking[to_val][c] -= 1
                counts[c] -= 1
            if to_val:
                chosen.add(name)
            del left[name]
    for photos in of_class.values():
        if len(photos) > 1 and not chosen & set(photos):
            _exchange(labels, of_class, chosen, entering=photos)
        if len(photos) > 1 and chosen >= set(photos):
            rest = set(names) - chosen
            _exchange(labels, of_class, rest, entering=photos)
            chosen = set(names) - rest
    return chosen


def _exchange(
    labels: Mapping[str, Sequence[str]],
    of_class: Mapping[str, Sequence[str]],
    side: set[str],
    entering: Sequence[str],
) -> None:
    """Exchanges two photos between the splits, so that `side` has one of `entering`.

    It is done only where no other class loses its last photo on either side.
    """

    def keeps(name: str, part: set[str]) -> bool:
        return all(len(of_class[c]) < 2 or len(part & set(of_class[c])) > 1 for c in labels[name])

    everyone = set(labels)
    coming = [name for name in entering if keeps(name, everyone - side)]
    going = [name for name in sorted(side) if keeps(name, side)]
    if coming and going:
        side.add(coming[0])
        side.discard(going[0])


def _kept_split(root: epath.Path, ids: Sequence[str]) -> set[str] | None:
    """Returns the photos for validation of lists that are there and name the same photos."""
    splits = [root / "ImageSets" / "Segmentation" / f"{name}.txt" for name in ("train", "val")]
    if not all(path.exists() for path in splits):
        return None
    lines = ([line.strip() for line in storage.read_text(p).splitlines()] for p in splits)
    train, val = (set(filter(None, names)) for names in lines)
    return val if train | val == set(ids) and not train & val else None


def _photos(root: epath.Path) -> set[str]:
    folder = root / "JPEGImages"
    files = photo_names.files_by_id(folder, photo_names.is_photo)
    if not files:
        others = _other_pictures(folder)
        advice = f"; {others[0]} is of another format: convert it" if others else ""
        advice = f"; {voc_folder.move_advice(root)}" if voc_folder.is_flat(root) else advice
        fault(f"there is no photo in {folder}{advice}")
    for name in files:
        photo_names.one_file(files, name, folder)
        if photo_names.is_photo(name):
            fault(f"JPEGImages/{files[name][0]}: it ends twice as a photo does; rename it")
    return set(files)


def _other_pictures(folder: epath.Path) -> list[str]:
    return sorted(filter(photo_names.is_other_picture, photo_names.file_names(folder)))


def _write_lists(root: epath.Path, lists: dict[str, list[str]], force: bool) -> dict[str, int]:
    """Writes the lists that are absent or, with `force`, different; returns their lengths."""
    existing = {n: storage.read_text(root / n).splitlines() for n in lists if (root / n).exists()}
    different = [name for name, lines in existing.items() if lines != lists[name]]
    if not force:
        raise_faults(root, [_difference(n, existing[n], lists[n]) for n in different])
    left = [name for name in lists if name not in existing or name in different]
    for name in left:
        text = "".join(f"{line}\n" for line in lists[name])
        storage.write_bytes(root / name, text.encode())
    return {name: len(lists[name]) for name in left}


def _difference(name: str, before: Sequence[str], now: Sequence[str]) -> str:
    pairs = itertools.zip_longest(before, now, fillvalue="")
    number, (old, new) = next((k, pair) for k, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return (
        f"{name} is there already, and would be written otherwise (line {number}: {old!r} there, "
        f"{new!r} now); --force replaces it"
    )
