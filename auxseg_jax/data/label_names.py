"""The names of classes that a table of labels brings: what is odd about them, and how many photos
have each."""

import collections
import difflib
import re
from collections.abc import Mapping, Sequence

from auxseg_jax.errors import fault

_NO_CLASS = {"nan", "none", "null", "n/a", "na", "nil", "-", "?", "background"}
_ALIKE = 0.8
_RARE = 0.2
"""A class with this share of the photos of another one, or less, may be a slip of the pen."""
_SHOWN = 3


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
        elif re.fullmatch(r"[+-]?\d+(\.\d*)?", name):
            fault(f"{where}: {photo} has the class {name!r}; write the names of classes")
    _check_alike(counts)


def _check_alike(counts: Mapping[str, int]) -> None:
    by_key: dict[str, list[str]] = {}
    for name in counts:
        by_key.setdefault(re.sub(r"[\s_-]+", " ", name).casefold(), []).append(name)
    for names in by_key.values():
        if len(names) > 1:
            listed = ", ".join(f"{name} ({counts[name]} photos)" for name in sorted(names))
            fault(f"classes that differ in case or blanks alone: {listed}; spell them alike")
    keys = sorted(by_key)
    for key in keys:
        for other in difflib.get_close_matches(key, keys, n=3, cutoff=_ALIKE)[1:]:
            few, many = (sum(counts[name] for name in by_key[k]) for k in (key, other))
            if few <= _RARE * many:
                fault(
                    f"the class {by_key[key][0]!r} ({few} photos) looks like {by_key[other][0]!r} "
                    f"({many} photos); mend it, or list the classes: --classes"
                )


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
