"""Image-level labels, from every form they come in.

image_labels.txt     "<id> <class> <class> ..." a line; an id alone has no class
NAME.csv             a header, then "id,classes" with classes parted by ";" or "|", in one row or several; or a column of 0/1 a class
NAME.json            {"<id>": ["<class>", ...]}, or an annotation file of COCO (instances_*.json)
NAME.npy             cls_labels.npy of the field's repositories: a pickled dict of multi-hot vectors, read without unpickling what is not
                     needed for that; ids as text or as numbers (2007000032, or COCO's 9)
FOLDER               of VOC's Annotations/<id>.xml

    python -m auxseg_jax.data.labels --from FILE --to FILE [--classes classes.txt] [--ids LIST.txt]

writes one as another (.txt, .csv, .json). With a folder after --to it is made a data set for the builder `voc_folder`: the photos in its
JPEGImages get classes.txt, image_labels.txt and lists of a training and a validation split.
"""

import argparse
import collections
import csv
import io
import json
import re
import sys
import xml.etree.ElementTree
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax import files, pickles
from auxseg_jax.data import listing

Labels = dict[str, tuple[str, Sequence[str] | np.ndarray]]
"""id -> (where that stands, names of its classes, or a multi-hot vector)."""

_ENDING = r"\.(jpe?g|png)$"


def read(path: epath.PathLike) -> tuple[Labels, list[str]]:
    """The labels of a file or folder, its form told by its ending; and everything that is wrong with it.

    Raises:
      ValueError: the ending is of no known form.
    """
    path = epath.Path(path)
    readers = {".txt": _read_txt, ".csv": _read_csv, ".json": _read_json, ".npy": _read_npy}
    if not path.is_dir() and path.suffix not in readers:
        raise ValueError(f"{path}: labels come as a folder of .xml, or as {', '.join(readers)}")
    try:
        labels, faults = _read_xml(path) if path.is_dir() else readers[path.suffix](path)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        return {}, [f"{path.name}: {error}"]
    for name in [name for name in labels if not listing.is_id(name)]:
        where, _ = labels.pop(name)
        faults.append(f"{where}: {name!r} is not an id (a plain file name without folder, blanks and ending)")
    return labels, faults


def vectors(labels: Labels, classes: Sequence[str], faults: list[str]) -> dict[str, np.ndarray]:
    """{id: uint8 [C] multi-hot} over `classes` (background first); what is unknown is added to `faults`."""
    index = {name: k for k, name in enumerate(classes[1:])}
    result = {}
    for name, (where, value) in labels.items():
        if isinstance(value, np.ndarray):
            if classes and value.shape != (len(index),):
                faults.append(f"{where}: {name} has a vector of {value.size} classes, classes.txt names {len(index)} beside background")
            result[name] = (value > 0).astype(np.uint8)
            continue
        result[name] = np.zeros(len(index), np.uint8)
        for label in value:
            if label in index:
                result[name][index[label]] = 1
            elif classes:
                faults.append(f"{where}: {name} has the class {label!r}, which classes.txt does not name")
    return result


def with_ids(labels: Labels, ids: Iterable[str]) -> Labels:
    """`labels` with the ids that are numbers (2007000032, or COCO's 9) replaced by those of `ids` that mean them.

    Raises:
      ValueError: a number may mean two ids, or two entries mean one.
    """
    ids = list(ids)
    numbered: dict[str, set[str]] = collections.defaultdict(set)
    for name in ids:
        for digits in {re.sub(r"[^0-9]", "", name), name.rsplit("_", 1)[-1]}:
            if digits.isascii() and digits.isdecimal():
                numbered[str(int(digits))].add(name)
    known, renamed = set(ids), {}
    for name, value in labels.items():
        found = sorted(numbered.get(name, ())) if name not in known else []
        if len(found) > 1:
            raise ValueError(f"the number {name} may mean {' or '.join(found)}")
        meant = found[0] if found else name
        if meant in renamed:
            raise ValueError(f"{meant} is there twice, once as the number {name}")
        renamed[meant] = value
    return renamed


def write(path: epath.PathLike, labels: Mapping[str, Sequence[str]]) -> None:
    """Writes {id: names of classes} as .txt, .csv or .json.

    Raises:
      ValueError: another ending; or, in .txt, a class with a blank in its name.
    """
    path = epath.Path(path)
    if path.suffix == ".json":
        files.write_bytes(path, (json.dumps({name: list(value) for name, value in labels.items()}, indent=1) + "\n").encode())
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("id", "classes"), *((name, ";".join(value)) for name, value in labels.items())])
        files.write_bytes(path, text.getvalue().encode())
    elif path.suffix == ".txt":
        blank = sorted({label for value in labels.values() for label in value if len(label.split()) != 1})
        if blank:
            raise ValueError(f"a class in image_labels.txt is one word; these are not: {', '.join(map(repr, blank))}")
        files.write_bytes(path, "".join(" ".join([name, *value]) + "\n" for name, value in labels.items()).encode())
    else:
        raise ValueError(f"{path}: labels are written as .txt, .csv or .json")


def _read_txt(path: epath.Path) -> tuple[Labels, list[str]]:
    faults: list[str] = []
    labels: Labels = {}
    for number, line in listing.read_lines(path, faults):
        name, *present = line.split()
        where = f"{path.name} line {number}"
        if name in labels:
            faults.append(f"{where}: {name} has a line already")
        labels[name] = where, present
    return labels, faults


def _read_csv(path: epath.Path) -> tuple[Labels, list[str]]:
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig")), strict=True))
    if not rows or len(rows[0]) < 2:
        raise ValueError("expected a header and at least two columns, parted by commas: the photo's id, its classes")
    if re.search(_ENDING, rows[0][0], re.IGNORECASE):
        raise ValueError(f"the first line is a photo, {rows[0][0]}; it must be a header, such as id,classes")
    header, faults, labels = [cell.strip() for cell in rows[0]], [], {}
    body = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)]
    wide = all(cell in ("0", "1") for _, row in body for cell in row[1:])
    if len(header) > 2 and not wide:
        raise ValueError("more than two columns, and not all of 0 and 1: expected id,classes, or a column of 0/1 a class")
    for number, row in body:
        where = f"{path.name} line {number}"
        if len(row) != len(header):
            faults.append(f"{where}: {len(row)} columns, the header has {len(header)}")
            continue
        name = re.sub(_ENDING, "", row[0], flags=re.IGNORECASE)
        present = [label for label, cell in zip(header[1:], row[1:], strict=True) if cell == "1"] if wide else _split(row[1])
        if wide and name in labels:
            faults.append(f"{where}: {name} has a line already")
        labels[name] = where, [*dict.fromkeys([*labels.get(name, (where, []))[1], *present])]
    return labels, faults


def _split(cell: str) -> list[str]:
    """Names of classes parted by ";", "|" or ","; they may hold blanks."""
    return [part.strip() for part in re.split(r"[;|,]", cell) if part.strip()]


def _read_json(path: epath.Path) -> tuple[Labels, list[str]]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if isinstance(content, dict) and "annotations" in content:
        return _of_coco(path.name, content)
    if not isinstance(content, dict) or not all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in content.values()):
        raise ValueError('expected {"<id>": ["<class>", ...]}, or an annotation file of COCO')
    return {name: (path.name, value) for name, value in content.items()}, []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON none of whose keys is there twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{twice[0][0]!r} is there twice")
    return result


def _of_coco(where: str, content: dict) -> tuple[Labels, list[str]]:
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        names = {entry["id"]: str(entry["file_name"]).rsplit("/", 1)[-1].rsplit(".", 1)[0] for entry in content["images"]}
        present: dict[Any, dict[str, None]] = {key: {} for key in names}
        for entry in content["annotations"]:
            present[entry["image_id"]][categories[entry["category_id"]]] = None
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an annotation file of COCO: {error!r} is missing, or named nowhere") from error
    if len(set(names.values())) < len(content["images"]):
        raise ValueError("two images have one id or one name")
    return {names[key]: (where, list(value)) for key, value in present.items()}, []


def _read_xml(folder: epath.Path) -> tuple[Labels, list[str]]:
    labels: Labels = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.xml")):
        try:
            labels[path.stem] = path.name, xml_classes(path)
        except (OSError, ValueError) as error:
            faults.append(f"{path.name}: {error}")
    if not labels and not faults:
        faults.append(f"{folder.name}: there is no .xml in {folder}")
    return labels, faults


def xml_classes(path: epath.Path) -> list[str]:
    """Classes of the objects in an annotation of VOC, each once; ValueError if it is none."""
    text = path.read_bytes()  # which declare their encoding
    # entities within entities can be made to fill any memory
    if any(word.encode(code) in text for word in ("<!DOCTYPE", "<!ENTITY") for code in ("ascii", "utf-16-le", "utf-16-be")):
        raise ValueError("refused: it declares entities")
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except (xml.etree.ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"not valid XML ({error})") from error
    names = [(entry.findtext("name") or "").strip() for entry in root.findall("object")]
    if root.tag != "annotation" or "" in names:
        raise ValueError("not an annotation of VOC")
    return list(dict.fromkeys(names))


def _read_npy(path: epath.Path) -> tuple[Labels, list[str]]:
    content = pickles.read_npy(path.read_bytes())
    if not isinstance(content, dict) or not all(isinstance(value, np.ndarray) and value.ndim == 1 for value in content.values()):
        raise ValueError("not a dict of label vectors")
    labels: Labels = {}
    for key, vector in content.items():
        if str(key) in labels:
            raise ValueError(f"{key} is there twice, as text and as a number")
        labels[str(key)] = path.name, vector
    return labels, []


def lay_out(root: epath.PathLike, labels: Labels, classes: Sequence[str] | None, val_share: float) -> dict[str, int]:
    """Makes <root>/JPEGImages a data set for `voc_folder`: writes its lists.

    Args:
      root: folder that holds JPEGImages.
      labels: of `read`; photos without an entry are left out.
      classes: background first; None: all that `labels` name, sorted.
      val_share: of the photos, for the split val, spread evenly over the sorted ids; one at least, and one is left to train on.

    Returns:
      {list: number of lines} of what was written, without lists that were the same already; and the number of photos left out, where there are any.

    Raises:
      DataError: photos and labels do not fit, or a list is there and says something else; nothing is written then.
    """
    root = epath.Path(root)
    pictures = listing.file_names(root / "JPEGImages")
    stems = {name.rsplit(".", 1)[0] for name in pictures if name.endswith(listing.PHOTO_ENDINGS)}
    faults = [] if stems else [f"there is no photo in {root / 'JPEGImages'}"]
    faults += [f"JPEGImages/{name}: its name has a blank in it" for name in sorted(pictures) if not listing.is_id(name)]
    faults += [f"{name}: has labels, but there is no photo JPEGImages/{name}.jpg" for name in sorted(set(labels) - stems)] if stems else []
    named = names_of(labels, classes, faults)
    classes = classes or ["background", *sorted({label for value in named.values() for label in value})]
    faults += listing.class_faults(classes, "classes")
    faults += [f"the class {name!r} has a blank in it, and image_labels.txt parts names by blanks" for name in classes if len(name.split()) > 1]
    ids = sorted(set(named) & stems)
    if not 0 < val_share < 1 or len(ids) < 2:
        faults.append(f"{len(ids)} photos, of which {val_share} for validation: expected two or more, and a share between 0 and 1")
    if faults:
        raise listing.DataError(root, faults)
    every = min(max(round(1 / val_share), 2), len(ids))
    lists = {
        "classes.txt": list(classes),
        "image_labels.txt": [" ".join([name, *named[name]]) for name in ids],
        "ImageSets/Segmentation/train.txt": [name for k, name in enumerate(ids, 1) if k % every],
        "ImageSets/Segmentation/val.txt": [name for k, name in enumerate(ids, 1) if k % every == 0],
    }
    texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}
    there = {name: (root / name).read_text() for name in lists if (root / name).exists()}
    if other := [name for name, text in there.items() if text != texts[name]]:
        raise listing.DataError(root, [f"{name} is there already, and would be written otherwise; delete it first" for name in other])
    for name in lists.keys() - there.keys():
        files.write_bytes(root / name, texts[name].encode())
    unnamed = sorted(stems - set(named))
    missing = {f"photos left out, for they have no label ({', '.join(unnamed[:5])}{', ...' * (len(unnamed) > 5)})": len(unnamed)} if unnamed else {}
    return {name: len(lists[name]) for name in lists if name not in there} | missing


def names_of(labels: Labels, classes: Sequence[str] | None, faults: list[str]) -> dict[str, list[str]]:
    """{id: names of classes}; vectors need `classes`, and what does not fit is added to `faults`."""
    if classes is None:
        unnamed = [name for name, (_, value) in labels.items() if isinstance(value, np.ndarray)]
        if unnamed:
            faults.append(f"{unnamed[0]}: has a vector; its classes need names (--classes)")
            return {}
        return {name: list(value) for name, (_, value) in labels.items()}
    found = vectors(labels, classes, faults)
    return {} if faults else {name: [classes[k + 1] for k in np.flatnonzero(vector)] for name, vector in found.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m auxseg_jax.data.labels")
    parser.add_argument("--from", dest="source", required=True, metavar="FILE", help="labels: .txt, .csv, .json, .npy, or a folder of .xml")
    parser.add_argument("--to", dest="output", required=True, metavar="FILE", help="labels: .txt, .csv or .json; or a folder that holds JPEGImages")
    parser.add_argument("--classes", metavar="FILE", help="names, one a line, background first; needed for .npy")
    parser.add_argument("--ids", metavar="FILE", help="ids, one a line: for labels whose ids are numbers")
    parser.add_argument("--val-share", type=float, default=0.2, help="with a folder after --to: share of the photos for validation (0.2)")
    arguments = parser.parse_args()
    try:
        faults: list[str] = []
        read_list = [line for _, line in listing.read_lines(epath.Path(arguments.classes), faults)] if arguments.classes else None
        ids = [line for _, line in listing.read_lines(epath.Path(arguments.ids), faults)] if arguments.ids else []
        labels, wrong = read(arguments.source)
        faults += wrong
        if arguments.classes and not read_list:
            faults.append(f"{arguments.classes}: names no class")
        if ids:
            labels = with_ids(labels, ids)
        if epath.Path(arguments.output).is_dir():
            if faults:
                raise listing.DataError(arguments.source, faults)
            written = lay_out(arguments.output, labels, read_list, arguments.val_share)
            print("\n".join(f"{name}: {count}" for name, count in written.items()) or "every list was there already")
            return
        named = names_of(labels, read_list, faults)
        if faults:
            raise listing.DataError(arguments.source, faults)
        write(arguments.output, named)
        print(f"{arguments.output}: {len(named)} photos")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
