"""Finds configs by name and loads them: `load_config("voc:official", seed=1)`."""

import contextlib
import importlib.util
import inspect
import pathlib
import traceback
import types
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from auxseg_jax import configs
from auxseg_jax.config import declared
from auxseg_jax.errors import UserError, nearest

_NO_CONFIGS = ("common", "fields", "__init__")


def names() -> list[str]:
    """Returns the names of the configs that come with the package."""
    return sorted(
        path.stem
        for folder in configs.__path__
        for path in pathlib.Path(folder).glob("*.py")
        if path.stem not in _NO_CONFIGS
    )


def find(name: str) -> tuple[pathlib.Path, str]:
    """Returns (file, words) of "FILE:words" or "NAME:words", without words "".

    Raises:
      UserError: it is neither a file nor the name of a config.
    """
    file, _, words = name.partition(":")
    path = pathlib.Path(file).expanduser()
    if path.is_file():
        return path, words
    for folder in configs.__path__:
        packaged = pathlib.Path(folder) / f"{file}.py"
        if file in names() and packaged.is_file():
            return packaged, words
    near = nearest(file, names())
    advice = f" (did you mean {near}?)" if near else ""
    raise UserError(
        f"{name}: there is no such file, and no such config{advice}; there are {', '.join(names())}"
    )


def load_config(name: str, **overrides: Any) -> ml_collections.ConfigDict:
    """Loads a config.

    Args:
      name: the name of a config that comes with the package, or a file, and words for it:
        "voc", "voc:official", "mine.py:quick".
      **overrides: fields to set: `seed=1`, `stages={"count": 2}`, or `**{"stages.count": 2}`.

    Raises:
      UserError: there is no such config or field, or a value is of another type.
    """
    path, words = find(name)
    get_config = getattr(_module(path), "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path} is no config: it has no function get_config")
    given = (words,) if words else ()
    try:
        inspect.signature(get_config).bind(*given)
    except TypeError as error:
        advice = "takes no words after its name" if words else f"needs words: {name}:WORDS"
        raise UserError(f"{name}: {path.name} {advice}") from error
    with _named_faults(path):
        config = get_config(*given)
    if not isinstance(config, ml_collections.ConfigDict):
        kind = type(config).__name__
        raise UserError(f"{path} is no config: get_config returns {kind}, not a ConfigDict")
    # A file that was written for an older version goes on working. What cannot be completed is
    # refused by `validation.checked`, with all that is wrong.
    with config.unlocked(), contextlib.suppress(UserError):
        declared.add_defaults(config)
    override(config, overrides)
    return config


def _module(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"auxseg_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no config: a config is a Python file, with the ending .py")
    module = importlib.util.module_from_spec(spec)
    with _named_faults(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _named_faults(path: pathlib.Path) -> Iterator[None]:
    """Says at which line of a config file what it does failed."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error
    except SyntaxError as error:
        raise UserError(f"{path} is no config: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = path.resolve()
        lines = [f.lineno for f in frames if pathlib.Path(f.filename).resolve() == own]
        where = f" line {lines[-1]}" if lines else ""
        raise UserError(f"{path}{where}: {type(error).__name__}: {error}") from error


def check_field(config: ml_collections.ConfigDict, name: str) -> None:
    """Raises UserError, with the nearest name, unless the config has the field or section."""
    known = list(_dotted(config))
    if name in known:
        return
    section, _, field = name.rpartition(".")
    if section in known:  # Only a field of it can be meant.
        fields = {n.rpartition(".")[2]: n for n in known if n.rpartition(".")[0] == section}
        near = fields.get(nearest(field, fields), "")
    else:
        near = nearest(name, known)
    advice = f"; did you mean {near}?" if near else ""
    if name in declared.RENAMED:
        advice = f"; it is {declared.RENAMED[name]} now"
    raise UserError(f"the config has no such field: {name}{advice}")


def _dotted(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    for name in config:
        yield prefix + name
        if isinstance(config[name], ml_collections.ConfigDict):
            yield from _dotted(config[name], f"{prefix}{name}.")


def _leaves(
    config: ml_collections.ConfigDict, changes: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (dotted path, value) of nested changes; what is no section is a value."""
    known = list(_dotted(config))
    for key, value in changes.items():
        is_section = any(name.startswith(f"{prefix}{key}.") for name in known)
        if isinstance(value, Mapping) and is_section:
            yield from _leaves(config, value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def override(config: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> None:
    """Sets fields of a config; keys are names or dotted paths, values may be nested."""
    for key, value in _leaves(config, changes):
        check_field(config, key)
        *sections, field = key.split(".")
        target = config
        for part in sections:
            target = target[part]
        try:
            target[field] = value
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}={value!r}: {error}") from error
