"""Flags that several commands have."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ml_collections

_CONFIG_HELP = (
    "a config that comes with the package, or a file, and words for it: msrc, voc:official, "
    "mine.py:quick; --config.section.field=value sets a field"
)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config and its overrides."""
    parser.add_argument("--config", required=True, metavar="NAME[:WORDS]", help=_CONFIG_HELP)


def load_config(arguments: argparse.Namespace) -> "ml_collections.ConfigDict":
    """Returns the config that the arguments name, with their overrides.

    Raises:
      UserError: there is no such config or field, or a value cannot be read.
    """
    from absl import flags
    from ml_collections import config_flags

    from auxseg_jax.config.loading import find
    from auxseg_jax.errors import UserError

    path, words = find(arguments.config)
    argv = ["auxseg", f"--config={path}{':' if words else ''}{words}", *arguments.overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (AttributeError, KeyError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"the config has no such field: {message}") from error
    except flags.Error as error:  # It holds a traceback, whose last line says what is wrong.
        last_line = str(error).strip().splitlines()[-1].strip()
        raise UserError(last_line.removeprefix("ValueError: ")) from error
    return values.config


def parse_point(text: str) -> tuple[int, int]:
    """Parses x,y in pixels."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError("it takes two numbers, x,y in pixels")
    return int(parts[0]), int(parts[1])


def parse_list(text: str) -> list[str]:
    """Parses names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
