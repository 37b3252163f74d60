"""`coco2014_wsss`: MS COCO 2014, 80 classes. `root` is the official layout:

annotations/instances_{train,val}2014.json
{train,val}2014/<file_name>
Saliency/<id>.png                                of any saliency network

Splits: train 82,783, val 40,504; an id is the file's name without ending. Categories are numbered
1..80 in the order of their official ids, which have gaps. Photos without any object are kept.
Masks, to evaluate, are painted from the objects: see `masks.paint`.
"""

import collections
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.data import listing, photo_names
from auxseg_jax.data.planes import NO_FOLDER
from auxseg_jax.errors import fault, raise_faults

NUM_CLASSES = 80
COUNTS = {"train": 82783, "val": 40504}

Tables = dict[str, list[dict[str, Any]]]
"""The tables images, annotations and categories of an annotation file."""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_key(value: Any) -> bool:
    return type(value) is int


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_segmentation(value: Any) -> bool:
    return isinstance(value, list | dict)


# {table: {key that an entry must have: whether a value is proper}}
_TABLES: dict[str, dict[str, Callable[[Any], bool]]] = {
    "images": {"id": _is_key, "file_name": _is_text, "height": _is_size, "width": _is_size},
    "annotations": {
        "image_id": _is_key,
        "category_id": _is_key,
        "area": _is_number,
        "segmentation": _is_segmentation,
    },
    "categories": {"id": _is_key, "name": _is_text},
}


def read(root: str, splits: Sequence[str], *, planes: Mapping[str, str]) -> listing.Listing:
    """Reads the annotations of `root`, and reports the faults in them and the photos absent.

    A split with another number of photos than the official one is a remark.

    Args:
      root: see the module.
      splits: keys of COUNTS.
      planes: {plane: folders}, see `listing.find_planes`.

    Raises:
      UserError: there is no such folder, or no such split.
    """
    path = listing.find_root(root)
    known = ", ".join(COUNTS)
    unknown = [split for split in splits if split not in COUNTS]
    raise_faults(root, [f"there is no split {split!r}; there are {known}" for split in unknown])
    sources = {split: _annotations(path, split) for split in splits}
    tables = {split: _read_json(source) for split, source in sources.items()}
    categories = _read_categories(tables.values())
    index = {key: k for k, key in enumerate(categories, 1)}
    classes = ("background", *categories.values())
    listing.check_classes(classes, "categories")
    photos, remarks, split_of = {}, [], {}
    for split in splits:
        where = sources[split].name
        objects = _group_objects(tables[split], where, index)
        names = _name_images(tables[split]["images"], split, where, split_of)
        _check_photos_exist(path, split, names)
        files_of = listing.find_planes(path, planes, names)
        photos[split] = []
        for name, image in names.items():
            entries = objects[image["id"]]
            parts = tuple(
                (index.get(e["category_id"], 0), e["area"], e["segmentation"]) for e in entries
            )
            labels = np.zeros(len(index), np.uint8)
            labels[[k - 1 for k, *_ in parts]] = 1
            mask = listing.Objects((image["height"], image["width"]), parts)
            file = path / f"{split}2014" / image["file_name"]
            photos[split].append(listing.Photo(name, file, labels, files_of[name], mask))
        if not names:
            fault(f"{where}: names no photo")
        if len(names) != COUNTS[split]:
            remarks.append(f"{split} holds {len(names)} photos, the official one {COUNTS[split]}")
    lists = [source for source in sources.values() if source.exists()]
    return listing.Listing(path, classes, photos, lists, remarks)


def state(root: str, splits: Sequence[str], planes: Mapping[str, str]) -> str:
    """Returns a hash of the state of every file that `read` and a build may read.

    To parse the annotations takes most of a minute and gigabytes; this takes a second.

    Args:
      root: see the module.
      splits: as of `read`.
      planes: as of `read`.
    """
    path = listing.find_root(root)
    folders = [f"{split}2014" for split in splits]
    folders += [f for value in planes.values() if value != NO_FOLDER for f in value.split(",")]
    found = hashlib.sha256(repr((str(path), splits, sorted(planes.items()))).encode())
    for split in splits:
        source = _annotations(path, split)
        if source.exists():
            found.update(listing.file_state(source))
    for folder in folders:
        parent = path / folder.strip()
        for name in sorted(photo_names.file_names(parent)):
            found.update(listing.file_state(parent / name))
    return found.hexdigest()


def _annotations(root: epath.Path, split: str) -> epath.Path:
    return root / "annotations" / f"instances_{split}2014.json"


def _read_categories(tables: Iterable[Tables]) -> dict[int, str]:
    """Returns {official id: name} of all files together, in the order of the ids."""
    names_of: dict[int, set[str]] = collections.defaultdict(set)
    for content in tables:
        for entry in content["categories"]:
            names_of[entry["id"]].add(entry["name"])
    for key, names in sorted(names_of.items()):
        if len(names) > 1:
            fault(f"category {key} has several names: {', '.join(sorted(names))}")
    return {key: min(names) for key, names in sorted(names_of.items())}


def _group_objects(
    tables: Tables, where: str, index: Mapping[int, int]
) -> Mapping[int, list[dict[str, Any]]]:
    """Returns {image id: its objects}."""
    objects = collections.defaultdict(list)
    for entry in tables["annotations"]:
        objects[entry["image_id"]].append(entry)
    keys = collections.Counter(entry["id"] for entry in tables["images"])
    for key, count in keys.items():
        if count > 1:
            fault(f"{where}: {count} images have the id {key}")
    for key in sorted(objects.keys() - keys.keys()):
        fault(f"{where}: objects of image {key}, which is not among the images")
    for entry in tables["annotations"]:
        if entry["category_id"] not in index:
            fault(
                f"{where}: an object of image {entry['image_id']} has the category "
                f"{entry['category_id']}, which has no name"
            )
    return objects


def _name_images(
    images: Sequence[dict[str, Any]], split: str, where: str, split_of: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Returns {id: entry} of a split; `split_of` grows by its ids."""
    names = {}
    for image in images:
        file, name = image["file_name"], image["file_name"].rsplit(".", 1)[0]
        if not photo_names.is_id(file):
            fault(f"{where}: {file!r} is not a plain file name")
        elif name in split_of:
            other = f"stands in instances_{split_of[name]}2014.json too"
            twice = "stands there twice"
            fault(f"{where}: {name} {twice if split_of[name] == split else other}")
        else:
            split_of[name] = split
            names[name] = image
    return names


def _check_photos_exist(root: epath.Path, split: str, names: Mapping[str, dict[str, Any]]) -> None:
    files = photo_names.file_names(root / f"{split}2014")
    for name, image in names.items():
        if image["file_name"] not in files:
            fault(f"{name}: no photo {split}2014/{image['file_name']}")


def _read_json(path: epath.Path) -> Tables:
    """Returns the three tables of an annotation file, with the entries that are whole."""
    empty: Tables = {table: [] for table in _TABLES}
    try:
        content = json.loads(path.read_text())
    except OSError:
        fault(f"{path.name}: there is no file {path}")
        return empty
    except (ValueError, RecursionError) as error:
        fault(f"{path.name}: not valid JSON ({error})")
        return empty
    if not isinstance(content, dict):
        fault(f"{path.name}: expected an object with images, annotations and categories")
        return empty
    tables = {}
    for table, fields in _TABLES.items():
        entries = content.get(table)
        if not isinstance(entries, list):
            fault(f"{path.name}: there is no list {table!r}")
            entries = []
        tables[table] = []
        for number, entry in enumerate(entries):
            whole = isinstance(entry, dict)
            improper = [
                key
                for key, is_proper in fields.items()
                if not (whole and is_proper(entry.get(key)))
            ]
            if improper:
                fault(f"{path.name}: {table}[{number}] has no proper {' and '.join(improper)}")
            else:
                tables[table].append(entry)
    return tables
