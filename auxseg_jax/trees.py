"""Named trees: parameter trees as flat dicts of "module/submodule/name", and masks of them by regular expression."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax import traverse_util


def flatten(tree: Mapping) -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}."""
    return traverse_util.flatten_dict(dict(tree), sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether any of the regular expressions matches the whole of `name`."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def mask(tree: Mapping, patterns: Iterable[str]) -> dict:
    """Tree of bools: which leaves have a name that one of `patterns` matches whole.

    Raises:
      ValueError: a pattern matches no leaf (a typo would otherwise silently change the recipe).
    """
    patterns = tuple(patterns)
    names = list(flatten(tree))
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(f"the pattern {pattern!r} matches no parameter; there are {names[0]}, ..., {names[-1]}")
    return unflatten({name: matches(name, patterns) for name in names})
