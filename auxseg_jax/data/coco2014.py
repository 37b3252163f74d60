"""`coco2014_wsss`: MS COCO 2014, 80 classes. `root` is the official layout:

annotations/instances_{train,val}2014.json
{train,val}2014/<file_name>
Saliency/<id>.png                                of any saliency network

Splits: train 82,783, val 40,504; an id is the file's name without ending. Categories are numbered 1..80 in the order of their official ids,
which have gaps. Photos without any object are kept. Masks, to evaluate, are painted from the objects: see `masks.paint`.
"""

import collections
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.data import listing

NUM_CLASSES = 80
COUNTS = {"train": 82783, "val": 40504}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_key(value: Any) -> bool:
    return type(value) is int


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# what an entry of a table must have, and what is proper there
_TABLES: dict[str, dict[str, Callable[[Any], bool]]] = {
    "images": {"id": _is_key, "file_name": _is_text, "height": _is_size, "width": _is_size},
    "annotations": {"image_id": _is_key, "category_id": _is_key, "area": _is_number, "segmentation": lambda value: isinstance(value, list | dict)},
    "categories": {"id": _is_key, "name": _is_text},
}


def read(root: str, splits: Sequence[str], *, saliency: str) -> tuple[listing.Listing, list[str]]:
    """Reads the annotations for the splits named, and checks that every photo they name is there.

    Returns:
      The listing, and every fault found. Splits with other counts than the official ones are remarks.

    Raises:
      DataError: there is no such folder, or no such split.
    """
    path = listing.find_root(root)
    unknown = [f"there is no split {split!r}; there are {', '.join(COUNTS)}" for split in splits if split not in COUNTS]
    if unknown:
        raise listing.DataError(root, unknown)
    faults: list[str] = []
    sources = {split: path / "annotations" / f"instances_{split}2014.json" for split in splits}
    content = {split: _read_json(source, faults) for split, source in sources.items()}
    names_of: dict[int, set[str]] = collections.defaultdict(set)
    for tables in content.values():
        for entry in tables["categories"]:
            names_of[entry["id"]].add(entry["name"])
    faults += [f"category {key} has several names: {', '.join(sorted(names))}" for key, names in sorted(names_of.items()) if len(names) > 1]
    categories = {key: min(names) for key, names in sorted(names_of.items())}
    index = {key: k for k, key in enumerate(categories, 1)}
    classes = ("background", *categories.values())
    faults += listing.class_faults(classes, "categories")
    folders = listing.saliency_folders(path, saliency)
    photos, remarks, seen = {}, [], {}
    for split, tables in content.items():
        where = sources[split].name
        objects = collections.defaultdict(list)
        for entry in tables["annotations"]:
            objects[entry["image_id"]].append(entry)
        keys = collections.Counter(entry["id"] for entry in tables["images"])
        faults += [f"{where}: {count} images have the id {key}" for key, count in keys.items() if count > 1]
        faults += [f"{where}: objects of image {key}, which is not among the images" for key in sorted(objects.keys() - keys.keys())]
        faults += [
            f"{where}: an object of image {e['image_id']} has the category {e['category_id']}, which has no name"
            for e in tables["annotations"]
            if e["category_id"] not in index
        ]
        pictures = listing.file_names(path / f"{split}2014")
        names = []
        for image in tables["images"]:
            file, name = image["file_name"], image["file_name"].rsplit(".", 1)[0]
            if not listing.is_id(file):
                faults.append(f"{where}: {file!r} is not a plain file name")
                continue
            if name in seen:
                other = "stands there twice" if seen[name] == split else f"stands in instances_{seen[name]}2014.json too"
                faults.append(f"{where}: {name} {other}")
                continue
            seen[name] = split
            if file not in pictures:
                faults.append(f"{name}: no photo {split}2014/{file}")
            names.append((name, image))
        maps = listing.find_saliency(folders, [name for name, _ in names], faults)
        photos[split] = []
        for name, image in names:
            parts = tuple((index.get(e["category_id"], 0), e["area"], e["segmentation"]) for e in objects[image["id"]])
            labels = np.zeros(len(index), np.uint8)
            labels[[k - 1 for k, *_ in parts]] = 1
            mask = listing.Objects((image["height"], image["width"]), parts)
            photos[split].append(listing.Photo(name, path / f"{split}2014" / image["file_name"], labels, maps[name], mask))
        if not names:
            faults.append(f"{where}: names no photo")
        if len(names) != COUNTS[split]:
            remarks.append(f"{split} holds {len(names)} photos, the official one {COUNTS[split]}")
    return listing.Listing(path, classes, photos, [source for source in sources.values() if source.exists()], remarks), faults


def _read_json(path: epath.Path, faults: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The three tables of an annotation file, the entries that are whole."""
    empty: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    try:
        content = json.loads(path.read_text())
    except OSError:
        faults.append(f"{path.name}: there is no file {path}")
        return empty
    except (ValueError, RecursionError) as error:
        faults.append(f"{path.name}: not valid JSON ({error})")
        return empty
    if not isinstance(content, dict):
        faults.append(f"{path.name}: expected an object with images, annotations and categories")
        return empty
    tables = {}
    for table, fields in _TABLES.items():
        entries = content.get(table)
        if not isinstance(entries, list):
            faults.append(f"{path.name}: there is no list {table!r}")
            entries = []
        tables[table] = []
        for number, entry in enumerate(entries):
            wrong = [key for key, proper in fields.items() if not (isinstance(entry, dict) and proper(entry.get(key)))]
            if wrong:
                faults.append(f"{path.name}: {table}[{number}] has no proper {' and '.join(wrong)}")
            else:
                tables[table].append(entry)
    return tables
