"""Labels in a table of text (.csv, .tsv), as spreadsheets, pandas and annotation tools write them.

Read is what can mean one thing; all else is refused, with the line and the way to say it.
"""

import csv
import io
import re
from collections.abc import Sequence

from auxseg_jax.errors import UserError, fault

Row = tuple[str, Sequence[str]]
"""(where it stands, names of the photo's classes)."""

_ID_HEADERS = re.compile(
    r"(image|img|photo|picture|file|sample)?[ _-]?(id|ids|name|names|path|file|filename|stem)?s?",
    re.IGNORECASE,
)
_LABEL_HEADERS = re.compile(
    r"(image|class|photo)?[ _-]?(label|class|classes|category|categories|tag|annotation|object|"
    r"target|name|y)e?s?",
    re.IGNORECASE,
)
_NUMBER_HEADERS = re.compile(
    r"(.*[ _-])?(ids?|idx|index|code|gt|no|nr|num|number|class|label|category|target|cls)",
    re.IGNORECASE,
)
_CLASSES = re.compile(r"class(es)?|labels?|categor(y|ies)", re.IGNORECASE)
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_FORMS = "expected a header and then `id,classes`, or a column of 0/1 for each class"


def parse(text: str, name: str) -> dict[str, Row]:
    """Parses a table; reports faults.

    It has a header. Its first column holds the photos. Either the second one holds the names of
    their classes, parted by ";" or "|", or a row for each class of a photo; or every other column
    is of one class, and holds 0 or 1 (or True and False).

    Args:
      text: the table.
      name: of the file, for messages.

    Returns:
      {photo as it is written: row}.

    Raises:
      UserError: it is no such table.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    delimiter = _delimiter(text.partition("\n")[0])
    rows = list(csv.reader(io.StringIO(text), strict=True, delimiter=delimiter))
    rows = [[cell.strip() for cell in row] for row in rows]
    if not rows or len(rows[0]) < 2:
        raise UserError(f"{_FORMS}, parted by commas, semicolons or tabs")
    header, body = rows[0], [row for row in enumerate(rows[1:], 2) if any(row[1])]
    is_named, body = bool(body), _of_length(body, len(header), name)
    if is_named and not body:
        return {}
    empty = [k for k, cell in enumerate(header) if not any([cell, *(row[k] for _, row in body)])]
    header = [cell for k, cell in enumerate(header) if k not in empty]
    body = [(n, [cell for k, cell in enumerate(row) if k not in empty]) for n, row in body]
    if len(header) < 2:
        raise UserError(f"{_FORMS}, parted by commas, semicolons or tabs")
    header, body = _without_index(header, body)
    if not body:
        raise UserError("it names no photo below its header")
    header, body = _label_column(header, body)
    is_wide = _check_kind(header, body)
    _check_header(header, is_wide)
    several = [] if is_wide else [n for n, row in body if len(_parts(row[1])) > 1]
    labels: dict[str, Row] = {}
    for number, row in body:
        where, photo = f"{name} line {number}", row[0]
        if is_wide:
            cells = zip(header[1:], row[1:], strict=True)
            present = [label for label, cell in cells if _FLAGS[cell.lower()]]
            if photo in labels:
                fault(f"{where}: {photo} has a line already")
        else:
            present = _split(row[1], where)
            if several and photo in labels and list(labels[photo][1]) != present:
                fault(
                    f"{where}: {photo} has a line already; write all classes of a photo in one "
                    f"line, as line {several[0]} does, or one class in each"
                )
        before = labels[photo][1] if photo in labels else []
        labels[photo] = where, [*dict.fromkeys([*before, *present])]
    return labels


def _delimiter(header: str) -> str:
    if "\t" in header:
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _of_length(
    body: Sequence[tuple[int, list[str]]], length: int, name: str
) -> list[tuple[int, list[str]]]:
    for number, row in body:
        if len(row) != length:
            fault(f"{name} line {number}: {len(row)} columns, the header has {length}")
    return [(number, row) for number, row in body if len(row) == length]


def _without_index(
    header: list[str], body: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Leaves out the column of row numbers that pandas writes first, without a name."""
    is_index = (
        len(header) > 2
        and header[0].lower() in ("", "unnamed: 0")
        and _ID_HEADERS.fullmatch(header[1])
        and [row[0] for _, row in body] == [str(k) for k in range(len(body))]
    )
    return (header[1:], [(n, row[1:]) for n, row in body]) if is_index else (header, body)


def _label_column(
    header: list[str], body: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Leaves out the columns beside one that is called classes or labels."""
    named = [k for k, cell in enumerate(header) if k and re.fullmatch(_CLASSES, cell)]
    if len(header) < 3 or len(named) != 1:
        return header, body
    kept = (0, named[0])
    return [header[k] for k in kept], [(n, [row[k] for k in kept]) for n, row in body]


def _check_kind(header: Sequence[str], body: Sequence[tuple[int, Sequence[str]]]) -> bool:
    """Returns whether each class has a column of 0/1; refuses tables of no kind, or of two."""
    cells = [(number, cell) for number, row in body for cell in row[1:]]
    others = [(number, cell) for number, cell in cells if cell.lower() not in _FLAGS]
    if len(header) > 2:
        if others:
            number, cell = others[0]
            raise UserError(
                f"line {number}: {cell!r} in a table of {len(header)} columns, which are of 0 and "
                f"1 (an empty cell is neither); {_FORMS}"
            )
        return True
    if not others:
        if _LABEL_HEADERS.fullmatch(header[1]) or _NUMBER_HEADERS.fullmatch(header[1]):
            raise UserError(
                f"the column {header[1]!r} holds {cells[0][1]!r} and the like: numbers of classes, "
                "or whether there is one class? Write the names of classes; or, of one class, give "
                "the column its name"
            )
        return True
    named = [cell for _, cell in cells if cell]
    if named and all(re.fullmatch(r"\d+(\.0)?", cell) for cell in named):
        raise UserError(
            f"the column {header[1]!r} holds numbers, such as {named[0]}; write the names of the "
            "classes"
        )
    return False


def _check_header(header: Sequence[str], is_wide: bool) -> None:
    first = header[0]
    flags = [cell for cell in header[1:] if cell.lower() in _FLAGS]
    is_known = _ID_HEADERS.fullmatch(first) and not re.fullmatch(r"\d+", first)
    is_known = is_known or (is_wide and not flags and not _is_photo(first))
    is_known = is_known or (not is_wide and _LABEL_HEADERS.fullmatch(header[1]))
    if _is_photo(first) or flags or not is_known:
        raise UserError(
            f"the first line, {', '.join(header[:4])}, is a photo, or no header that is known; "
            f"begin with a line `id,{'cat,dog,...' if is_wide else 'classes'}`"
        )
    empty = [k for k, cell in enumerate(header[1:], 2) if not cell and is_wide]
    if empty:
        raise UserError(f"column {empty[0]} has no name; it must be that of a class")
    if repeated := sorted({cell for cell in header[1:] if header.count(cell) > 1}):
        raise UserError(f"two columns are called {repeated[0]!r}")


def _is_photo(text: str) -> bool:
    return re.search(r"\.(jpe?g|png)$", text, re.IGNORECASE) is not None


def _split(cell: str, where: str) -> list[str]:
    """Splits names of classes, which may hold blanks."""
    if "," in cell:
        fault(
            f"{where}: {cell!r} may be one class or several; part classes by ';' or '|', and leave "
            "commas out of names"
        )
    return _parts(cell)


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in re.split(r"[;|,]", cell) if part.strip()]
