"""What several commands share: flags, and how a process ends."""

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

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

    from auxseg_jax.config import loading
    from auxseg_jax.errors import UserError

    config = loading.load_config(arguments.config)
    argv = ["auxseg", *arguments.overrides]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, "", flag_values=values, sys_argv=argv)
        unknown = values(argv)[1:]
    except (AttributeError, KeyError) as error:
        for text in arguments.overrides:
            loading.check_field(config, re.split(r"[=\[]", text)[0].partition("config.")[2])
        raise UserError(f"{' '.join(arguments.overrides)}: {error}") from error
    except flags.Error as error:
        raise UserError(str(error)) from error
    except (ValueError, TypeError, IndexError) as error:  # ml_collections raises all of them.
        raise UserError(f"{' '.join(arguments.overrides)}: {error}") from error
    if unknown:
        raise UserError(f"unknown arguments: {' '.join(unknown)}")
    return values.config


def parse_point(text: str) -> tuple[int, int]:
    """Parses x,y in pixels."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError("it takes two numbers, x,y in pixels")
    return int(parts[0]), int(parts[1])


def parse_seed(text: str) -> int:
    """Parses a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("it takes a whole number from 0 on")
    return int(text)


def parse_list(text: str) -> list[str]:
    """Parses names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def end(message: str, code: int, at_once: bool = False) -> NoReturn:
    """Prints why, and ends the process; `at_once` without the clean-up of libraries."""
    print(message, file=sys.stderr, flush=True)
    if at_once:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
