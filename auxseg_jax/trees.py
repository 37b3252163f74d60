"""Named trees: parameter trees as flat dicts of "module/submodule/name", and masks of them by regular expression."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
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


def merge_strict(template: Mapping, loaded: Mapping, *, excused: Iterable[str] = ()) -> dict:
    """`template` with the leaves of `loaded` put in its place, where every name and shape must agree.

    Args:
      template: the tree wanted; leaves have shape and dtype.
      loaded: the tree found.
      excused: patterns of names that may be missing from `loaded` (their template leaf stays) or extra in it.

    Raises:
      ValueError: lists everything that is missing, extra, or of another shape.
    """
    want, have = flatten(template), flatten(loaded)
    excused = tuple(excused)
    faults = [f"missing: {name} {tuple(leaf.shape)}" for name, leaf in want.items() if name not in have and not matches(name, excused)]
    faults += [f"extra: {name} {tuple(leaf.shape)}" for name, leaf in have.items() if name not in want and not matches(name, excused)]
    both = [name for name in want if name in have]
    faults += [f"shape: {n} is {tuple(have[n].shape)}, expected {tuple(want[n].shape)}" for n in both if have[n].shape != want[n].shape]
    if faults:
        raise ValueError("the weights do not fit the network:\n  " + "\n  ".join(faults))
    return unflatten({name: np.asarray(have[name], leaf.dtype) if name in have else leaf for name, leaf in want.items()})
