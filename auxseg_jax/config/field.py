"""The vocabulary in which `configs/fields.py` declares the fields of a config."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a field may have.

    Attributes:
      text: what a value must be, as an error message and the reference say it.
      contains: whether a value is allowed.
    """

    text: str
    contains: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config: all that is said of it, in one place.

    Attributes:
      default: its value in preset `plus`; it also says its type.
      help: a sentence or two for the reference.
      range: the values it may have, or None if any of its type will do.
      free: whether it may change when a run goes on: it says where and how something is computed,
        not what.
      before: what was done by versions without the field, where that is not the default.
    """

    default: Any
    help: str
    range: Range | None = None
    free: bool = False
    before: Any = None

    def fault(self, name: str, value: Any) -> str | None:
        """Returns what is wrong with a value, or None."""
        if not _fits(value, self.default):
            shown = " ".join(repr(value).split())  # A section is printed over several lines.
            return f"{name}={shown}: must be {_type_name(self.default)}"
        if self.range is not None and not self.range.contains(value):
            shown = repr(value) if isinstance(value, str) else value
            parted = " " if self.range.text.startswith("is ") else ": "
            return f"{name}={shown}{parted}{self.range.text}"
        return None


ABOVE_0 = Range("must be above 0, and finite", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range("must not be below 0, and finite", lambda value: 0 <= value < math.inf)
FRACTION = Range("must be between 0 and 1", lambda value: 0 <= value <= 1)
BELOW_1 = Range("must be at least 0 and below 1", lambda value: 0 <= value < 1)
SHARE = Range("must be above 0 and at most 1", lambda value: 0 < value <= 1)
MEGAPIXELS = Range(
    "must be 0, or from 0.001 on, and finite", lambda value: value == 0 or 0.001 <= value < math.inf
)
PATTERNS = Range("needs regular expressions", lambda value: all(map(_is_pattern, value)))
SIZES = Range(
    "needs pairs (height, width) above 0",
    lambda value: len(value) > 0 and all(len(size) == 2 and min(size) > 0 for size in value),
)
SCALES = Range("needs factors above 0", lambda value: len(value) > 0 and min(value) > 0)
SCALE_RANGE = Range(
    "needs the least and the largest factor, above 0",
    lambda value: len(value) == 2 and 0 < value[0] <= value[1],
)


def at_least(least: float) -> Range:
    """Returns the range of numbers from `least` on."""
    return Range(f"must be at least {least:g}", lambda value: value >= least)


def between(least: int, most: int) -> Range:
    """Returns the range of numbers from `least` to `most`."""
    return Range(f"must be from {least} to {most}", lambda value: least <= value <= most)


def all_at_least(least: float) -> Range:
    """Returns the range of lists, not empty, of numbers from `least` on."""
    return Range(
        f"must be at least {least:g}", lambda value: len(value) > 0 and min(value) >= least
    )


def one_of(*choices: str | int) -> Range:
    """Returns the range of some words or numbers."""
    names = ", ".join(map(str, choices))
    return Range(f"is not one of {names}", lambda value: value in choices)


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (TypeError, re.error):
        return False
    return True


def _fits(value: Any, default: Any) -> bool:
    """Returns whether a value is of the default's type; JSON has lists for tuples."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, tuple):
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(_fits(entry, default[0]) for entry in value if default)
    return isinstance(value, type(default))


def _type_name(default: Any) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    if isinstance(default, tuple):
        return f"a list, each entry {_type_name(default[0])}" if default else "a list"
    return names[type(default)]
