"""Image-level labels, read from every form they come in, and written.

image_labels.txt     "<id> <class> <class> ..." a line; an id alone has no class. Parted by tabs if
                     there is one in the file, else by blanks
NAME.csv, NAME.tsv   a header, then "id,classes" with classes parted by ";" or "|", or a row for
                     each class of a photo; or a column of 0/1 for each class; see `data.label_csv`
NAME.json            {"<id>": ["<class>", ...]}, or an annotation file of COCO (instances_*.json)
NAME.npy             cls_labels.npy of the field's repositories: a pickled dict of multi-hot
                     vectors, of which nothing is run; ids as text or as numbers
                     (2007000032, or COCO's 9)
FOLDER               of VOC's Annotations/<id>.xml

Everywhere a photo may be named by its id, or by its file, whose ending is left out.
"""

import collections
import csv
import io
import json
import re
import xml.etree.ElementTree
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax.data import label_csv, label_names, listing, photo_names
from auxseg_jax.errors import UserError, fault, nearest
from auxseg_jax.files import pickles, storage

Labels = dict[str, tuple[str, Sequence[str] | np.ndarray]]
"""{id: (where that stands, names of its classes or a multi-hot vector)}."""


def read(path: epath.PathLike) -> Labels:
    """Reads the labels of a file or folder, whose ending tells its form; reports faults.

    Raises:
      UserError: the ending is of no known form.
    """
    path = epath.Path(path)
    ending = path.suffix.lower()
    if not path.is_dir() and ending not in _READERS:
        forms = ", ".join(_READERS)
        raise UserError(f"{path}: labels come as a folder of .xml, or as {forms}")
    try:
        written = _read_xml(path) if path.is_dir() else _READERS[ending](path)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        fault(f"{path.name}: {error}")
        return {}
    labels: Labels = {}
    spelled: dict[str, str] = {}
    for name, entry in written.items():
        photo = photo_names.photo_id(name)
        if photo in labels:
            fault(
                f"{entry[0]}: {spelled[photo]} and {name} are both the photo {photo}, for ids have "
                "no ending; rename one of the files"
            )
        elif not photo_names.is_id(photo):
            fault(f"{entry[0]}: {name!r} is not an id (a plain file name without folder and tab)")
        else:
            where, value = entry
            if not isinstance(value, np.ndarray):
                value = label_names.clean(value, f"{where}: {photo}")
            labels[photo], spelled[photo] = (where, value), name
    if not written:
        fault(f"{path.name}: names no photo")
    return labels


def vectors(labels: Labels, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns {id: uint8 [C] multi-hot} over `classes` (background first); reports faults."""
    index = {name: k for k, name in enumerate(classes[1:])}
    result = {}
    for name, (where, value) in labels.items():
        if isinstance(value, np.ndarray):
            if classes and value.shape != (len(index),):
                fault(
                    f"{where}: {name} has a vector of {value.size} classes, "
                    f"classes.txt names {len(index)} beside background"
                )
            result[name] = (value > 0).astype(np.uint8)
            continue
        result[name] = np.zeros(len(index), np.uint8)
        for label in value:
            if label in index:
                result[name][index[label]] = 1
            elif classes:
                near = nearest(label, index)
                hint = f"; {near!r}?" if near else ""
                fault(
                    f"{where}: {name} has the class {label!r}, "
                    f"which classes.txt does not name{hint}"
                )
    return result


def class_names(labels: Labels, classes: Sequence[str] | None) -> dict[str, list[str]]:
    """Returns {id: names of classes}; vectors need `classes` (background first). Reports faults."""
    named = {name: row for name, row in labels.items() if not isinstance(row[1], np.ndarray)}
    label_names.check(named, are_listed=classes is not None)
    if classes is not None:
        result = {}
        for name, vector in vectors(labels, classes).items():
            if len(vector) == len(classes) - 1:
                result[name] = [classes[k + 1] for k in np.flatnonzero(vector)]
        return result
    unnamed = [name for name, (_, value) in labels.items() if isinstance(value, np.ndarray)]
    if unnamed:
        fault(f"{unnamed[0]}: has a vector; its classes need names (--classes)")
        return {}
    return {name: list(value) for name, (_, value) in labels.items()}


def with_ids(labels: Labels, ids: Iterable[str]) -> Labels:
    """Replaces the ids that are numbers by those of `ids` that they mean.

    Numbers are written 2007000032 for 2007_000032, or 9 for COCO_train2014_000000000009.

    Raises:
      UserError: a number may mean two ids, or two entries mean one.
    """
    ids = list(ids)
    by_number: dict[str, set[str]] = collections.defaultdict(set)
    for name in ids:
        for digits in {re.sub(r"[^0-9]", "", name), name.rsplit("_", 1)[-1]}:
            if digits.isascii() and digits.isdecimal():
                by_number[str(int(digits))].add(name)
    known, renamed = set(ids), {}
    for name, value in labels.items():
        meanings = sorted(by_number.get(name, ())) if name not in known else []
        if len(meanings) > 1:
            raise UserError(f"the number {name} may mean {' or '.join(meanings)}")
        meant = meanings[0] if meanings else name
        if meant in renamed:
            raise UserError(f"{meant} is there twice, once as the number {name}")
        renamed[meant] = value
    return renamed


def write(path: epath.PathLike, labels: Mapping[str, Sequence[str]]) -> None:
    """Writes {id: names of classes} as .txt, .csv or .json.

    Raises:
      UserError: another ending; or, in .csv, a class that holds what parts classes there.
    """
    path = epath.Path(path)
    if path.suffix == ".json":
        content = {name: list(value) for name, value in labels.items()}
        text = json.dumps(content, indent=1) + "\n"
    elif path.suffix == ".csv":
        every = sorted({label for value in labels.values() for label in value})
        if parted := [label for label in every if re.search("[;|,]", label)]:
            names = ", ".join(map(repr, parted))
            raise UserError(f"';', '|' and ',' part the classes of a .csv; these hold one: {names}")
        buffer = io.StringIO()
        rows = ((name, ";".join(value)) for name, value in labels.items())
        csv.writer(buffer, lineterminator="\n").writerows([("id", "classes"), *rows])
        text = buffer.getvalue()
    elif path.suffix == ".txt":
        text = "".join(f"{line}\n" for line in text_lines(labels))
    else:
        raise UserError(f"{path} is no folder, and no file .txt, .csv or .json to write labels to")
    storage.write_bytes(path, text.encode())


def text_lines(labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the lines of image_labels.txt."""
    rows = [[name, *value] for name, value in labels.items()]
    words = {word for row in rows for word in row}
    has_blanks = any(len(word.split()) > 1 for word in words)
    return [("\t" if has_blanks else " ").join(row) for row in rows]


def _read_txt(path: epath.Path) -> Labels:
    labels: Labels = {}
    lines = listing.read_lines(path)
    has_tabs = any("\t" in line for _, line in lines)
    rows = [
        [field.strip() for field in line.split("\t")] if has_tabs else line.split()
        for _, line in lines
    ]
    for (number, _), (name, *present) in zip(lines, rows, strict=True):
        where = f"{path.name} line {number}"
        if name in labels:
            fault(f"{where}: {name} has a line already")
        labels[name] = where, present
    return labels


def _read_json(path: epath.Path) -> Labels:
    text = storage.read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=storage.unique_keys)
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON ({error})") from error
    if isinstance(content, dict) and "annotations" in content:
        return _read_coco(path.name, content)
    if not isinstance(content, dict) or not all(map(_is_list_of_text, content.values())):
        raise UserError('expected {"<id>": ["<class>", ...]}, or an annotation file of COCO')
    return {name: (path.name, value) for name, value in content.items()}


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _read_coco(where: str, content: dict) -> Labels:
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        names = {
            entry["id"]: str(entry["file_name"]).rsplit("/", 1)[-1] for entry in content["images"]
        }
        present: dict[Any, dict[str, None]] = {key: {} for key in names}
        for entry in content["annotations"]:
            present[entry["image_id"]][categories[entry["category_id"]]] = None
    except KeyError as error:
        raise UserError(
            f"not an annotation file of COCO: {error.args[0]!r} is missing, or an annotation names "
            "an image or a category of that id, which the file does not have"
        ) from error
    except TypeError as error:
        raise UserError(f"not an annotation file of COCO: {error}") from error
    if len(set(names.values())) < len(content["images"]):
        raise UserError("two images have one id or one name")
    if len(categories) < len(content["categories"]):
        raise UserError("two categories have one id")
    return {names[key]: (where, list(value)) for key, value in present.items()}


def _read_xml(folder: epath.Path) -> Labels:
    labels: Labels = {}
    files = storage.matching(folder, "*.xml")
    for path in files:
        try:
            labels[path.stem] = path.name, xml_classes(path)
        except (OSError, ValueError) as error:
            fault(f"{path.name}: {error}")
    if not files:
        fault(f"{folder.name}: there is no .xml in {folder}")
    return labels


def xml_classes(path: epath.Path) -> list[str]:
    """Returns the classes of the objects in an annotation of VOC, each once.

    Raises:
      UserError: it is no annotation, or declares entities.
    """
    text = path.read_bytes()  # The file declares its own encoding.
    # Entities within entities can be made to fill any memory.
    declarations = ("<!DOCTYPE", "<!ENTITY")
    encodings = ("ascii", "utf-16-le", "utf-16-be")
    if any(word.encode(encoding) in text for word in declarations for encoding in encodings):
        raise UserError("refused: it declares entities")
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except (xml.etree.ElementTree.ParseError, LookupError) as error:
        raise UserError(f"not valid XML ({error})") from error
    names = [(entry.findtext("name") or "").strip() for entry in root.findall("object")]
    if root.tag != "annotation" or "" in names:
        raise UserError("not an annotation of VOC")
    return list(dict.fromkeys(names))


def _read_npy(path: epath.Path) -> Labels:
    content = pickles.read_npy(path.read_bytes())
    if not isinstance(content, dict) or not all(map(_is_vector, content.values())):
        raise UserError("not a dict of label vectors")
    labels: Labels = {}
    for key, vector in content.items():
        if str(key) in labels:
            raise UserError(f"{key} is there twice, as text and as a number")
        labels[str(key)] = path.name, vector
    return labels


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1


_READERS = {
    ".txt": _read_txt,
    ".csv": lambda path: label_csv.parse(storage.read_text(path), path.name),
    ".tsv": lambda path: label_csv.parse(storage.read_text(path), path.name),
    ".json": _read_json,
    ".npy": _read_npy,
}
