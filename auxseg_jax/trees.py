"""Parameter trees by name: flat dicts of "module/submodule/name", and masks by pattern."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax import traverse_util

from auxseg_jax.errors import UserError


def flatten(tree: Mapping) -> dict[str, Any]:
    """Turns nested dicts into {"a/b/c": leaf}."""
    return traverse_util.flatten_dict(dict(tree), sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict:
    """Inverts `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether any of the regular expressions matches the whole of `name`."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def mask(tree: Mapping, patterns: Iterable[str]) -> dict:
    """Returns a tree of bools: which leaves have a name that one of `patterns` matches whole.

    Raises:
      UserError: a pattern matches no leaf. A typo would otherwise silently change the recipe.
    """
    patterns = tuple(patterns)
    names = list(flatten(tree))
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise UserError(
                f"the pattern {pattern!r} matches no parameter; "
                f"there are {names[0]}, ..., {names[-1]}"
            )
    return unflatten({name: matches(name, patterns) for name in names})
