"""The names of classes that a table of labels brings: what is odd about them, and how many photos
have each."""

import collections
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from auxseg_jax.data import photo_names
from auxseg_jax.errors import fault

_NO_CLASS = {"nan", "none", "null", "n/a", "na", "nil", "-", "?", "background"}
_FEW, _RARE = 2, 0.2
"""A class of so few photos, this share of those of another one, may be a slip of the pen."""
_MOST = 254
_SHOWN = 3


def clean(names: Iterable[str], where: str) -> list[str]:
    """Returns the names of a photo's classes, each once, composed (`photo_names.compose`).

    Reports those that no list of classes could hold.

    Args:
      names: as they are written.
      where: where they stand, with the photo.
    """
    names = list(dict.fromkeys(photo_names.compose(name.strip()) for name in names))
    for name in names:
        if not name:
            fault(
                f"{where} has a class without a name; a photo without any class has nothing there"
            )
        elif not photo_names.is_id(name):
            fault(f"{where} has the class {name!r}, which cannot be a part of a file's name")
    return names


def check(labels: Mapping[str, tuple[str, Sequence[str]]], are_listed: bool) -> None:
    """Reports names that are hardly those of classes.

    Args:
      labels: {id: (where that stands, names)}.
      are_listed: whether a list of classes says which names there are; then it is what decides.
    """
    if are_listed:
        return
    first: dict[str, tuple[str, str]] = {}
    counts: collections.Counter[str] = collections.Counter()
    for photo, (where, names) in labels.items():
        for name in names:
            first.setdefault(name, (where, photo))
            counts[name] += 1
    for name, (where, photo) in first.items():
        if name.lower() in _NO_CLASS:
            fault(
                f"{where}: {photo} has the class {name!r}; a photo without any class has nothing "
                "there (if it is a class, list the classes: --classes)"
            )
        elif name[0] in "[{(":
            fault(f"{where}: {photo} has {name!r}; write names, parted by ';', without brackets")
        elif len(name.split()) > 1 and set(name.split()) <= set(first):
            fault(
                f"{where}: {name!r} may be one class or several, for its words are classes; if "
                "several, part them (by ';' in a .csv, by tabs in a .txt); if one, list the "
                "classes: --classes"
            )
        elif re.fullmatch(r"[+-]?\d+(\.\d*)?", name):
            fault(f"{where}: {photo} has the class {name!r}; write the names of classes")
    _check_alike(counts)


def _check_alike(counts: Mapping[str, int]) -> None:
    by_key: dict[str, list[str]] = {}
    for name in counts:
        # Letters of another width, and those that no eye sees.
        plain = unicodedata.normalize("NFKC", name).casefold()
        seen = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")
        by_key.setdefault(re.sub(r"[\s_-]+", " ", seen), []).append(name)
    for names in by_key.values():
        if len(names) > 1:
            listed = ", ".join(f"{name!r} ({counts[name]} photos)" for name in sorted(names))
            fault(
                f"classes that differ in case, blanks or unseen letters alone: {listed}; spell "
                "them alike"
            )
    if len(by_key) > _MOST:  # They are no classes, and another check says so.
        return
    for key, other in itertools.permutations(sorted(by_key), 2):
        few, many = (sum(counts[name] for name in by_key[k]) for k in (key, other))
        if few <= min(_FEW, _RARE * many) and _is_slip(key, other):
            fault(
                f"the class {by_key[key][0]!r} ({few} photos) looks like {by_key[other][0]!r} "
                f"({many} photos); mend it, or list the classes: --classes"
            )


def _is_slip(a: str, b: str) -> bool:
    """Returns whether a letter was left out, doubled or swapped with the next one."""
    short, long = sorted((a, b), key=len)
    if len(long) < 4:
        return False
    if len(long) == len(short) + 1:
        places = [k for k in range(len(long)) if long[:k] + long[k + 1 :] == short]
        return any(long[k].isalpha() for k in places)
    different = [k for k in range(len(a)) if len(a) == len(b) and a[k] != b[k]]
    first = different[0] if different else 0
    swapped = a[:first] + a[first : first + 2][::-1] + a[first + 2 :]
    return len(different) == 2 and swapped == b


def summary(labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns what was understood, as lines: classes, photos of each, photos of none, some rows."""
    counts = collections.Counter(name for names in labels.values() for name in names)
    without = sum(not names for names in labels.values())
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    rows = [
        f"  {photo}: {', '.join(names) or 'no class'}"
        for photo, names in list(labels.items())[:_SHOWN]
    ]
    counted = f"{len(labels)} photos, {len(counts)} classes: {listed or 'none'}"
    return [
        f"{counted}; {without} without a class",
        *rows,
        *(["  ..."] if len(labels) > _SHOWN else []),
    ]
