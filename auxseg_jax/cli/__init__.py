"""The command line, `auxseg COMMAND ...`. Each command is a module with its own flags.

A command's module has DESCRIPTION, EXAMPLE, `add_arguments(parser)` and `run(arguments)`. It
imports JAX only in `run`, so that help and mistakes answer at once.
"""

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from auxseg_jax.cli import options
from auxseg_jax.errors import UserError, nearest

COMMANDS = {
    "train": ("train", "run the whole method, or go on with it (the default)"),
    "predict": ("predict", "segment photos with a trained network"),
    "evaluate": ("evaluate", "score a folder of label maps or CAMs by masks"),
    "study": ("study", "compare rows of fields over seeds, with intervals"),
    "report": ("report", "write report.html of a run, to look at"),
    "compare": ("compare", "compare two runs: config, figures with intervals, photos"),
    "reproduce": ("reproduce", "run a run again from its manifest, and compare"),
    "audit": ("audit", "say what a run read masks for, and whether labels are as they were"),
    "thresholds": ("thresholds", "suggest thresholds of the CAMs without masks"),
    "prepare": ("prepare", "check and prepare a data set, and say what it holds"),
    "labels": ("labels", "read image-level labels, and lay out a folder of photos"),
    "saliency": ("saliency", "make saliency maps of photos"),
    "weights": ("weights", "convert weight files to and from PyTorch's names"),
    "doctor": ("doctor", "examine this machine: versions, devices, numbers, speed"),
    "profile": ("timing", "time the loader, the train step and the CRF"),
    "compile": ("compiled", "say what a config needs on devices that are not here"),
    "voc-archive": ("voc_archive", "pack or check an archive for the evaluation server of VOC"),
}
"""{command: (module of this room, summary)}."""

_LISTS = ("--input=", "--photos=")
"""Flags of several values; of `--input=a b` argparse would take the first one alone."""

_DEFAULT = "train"
_RESUMED = ("train", "study", "reproduce")
_EXIT_INTERRUPTED = 130
_stop_message = "stopped"
"""What Ctrl-C says."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name."""
    _handle_ctrl_c()
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # Names of files may not be in UTF-8.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's warnings are not for users.
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from auxseg_jax import __version__

        print(__version__)
        return
    name = _DEFAULT if arguments[0].startswith("-") else arguments.pop(0)
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        advice = f" (did you mean {near}?)" if near else ""
        listed = ", ".join(COMMANDS)
        options.end(f"error: there is no command {name!r}{advice}; there are {listed}", 2)
    command = importlib.import_module(f"auxseg_jax.cli.{COMMANDS[name][0]}")
    parser = _parser(name, command)
    parsed, extra = parser.parse_known_args(_with_lists(arguments))
    parsed.overrides, unknown = split_overrides(extra)
    if unknown or (parsed.overrides and not hasattr(parsed, "config")):
        hint = "; --mode is a command now: auxseg predict" if "--mode" in " ".join(unknown) else ""
        parser.error(f"unknown arguments: {' '.join(unknown or parsed.overrides)}{hint}")
    if hasattr(command, "check_arguments"):
        command.check_arguments(parser, parsed)
    _run(name, command, parsed)


def _with_lists(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with --input a b where there is --input=a b."""
    result: list[str] = []
    for text in arguments:
        name, _, value = text.partition("=")
        # A value that begins with "-" would be taken for a flag.
        is_list = text.startswith(_LISTS) and not value.startswith("-")
        result += [name, value] if is_list else [text]
    return result


def split_overrides(extra: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the overrides of a config, and the rest: --config.x=1 and --config.x 1 are one."""
    overrides: list[str] = []
    others: list[str] = []
    takes_value = False
    for text in extra:
        if text.startswith(("--config.", "--noconfig.")):
            overrides.append(text)
            takes_value = "=" not in text
        elif takes_value and not text.startswith("--"):
            overrides[-1] += f"={text}"
            takes_value = False
        else:
            others.append(text)
    return overrides, others


def _run(name: str, command: Any, parsed: argparse.Namespace) -> None:
    global _stop_message
    if name in _RESUMED:
        _stop_message = f"stopped; the same command goes on from {parsed.workdir}"
    # Libraries that cannot finish what they write would fill the screen after an error of a run.
    at_once = name == _DEFAULT
    try:
        command.run(parsed)
    except UserError as error:
        options.end(f"error: {error}", 1, at_once)
    except OSError as error:
        folder = getattr(parsed, "workdir", None)
        full = f": {folder}" if error.errno == errno.ENOSPC and folder else ""
        options.end(f"error: {error}{full}", 1, at_once)


def _parser(name: str, command: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"auxseg {name}",
        description=command.DESCRIPTION,
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return parser


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: auxseg [COMMAND] [FLAGS]",
            "",
            "AuxSegNet+ in JAX: weakly supervised semantic segmentation.",
            "",
            *lines,
            "",
            "auxseg COMMAND --help lists the flags of a command. Without one it is auxseg train.",
            "auxseg --version prints the version.",
        ]
    )


def _handle_ctrl_c() -> None:
    """Ends the process at once at Ctrl-C, from its first moment on.

    A KeyboardInterrupt would be swallowed by callbacks of libraries. What is written survives a
    kill, so there is nothing to wait for. A process that ignores Ctrl-C, as nohup wants, goes on
    ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _stop(*_: Any) -> None:
    show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # A progress bar hides it.
    os.write(2, f"{show_cursor}\n{_stop_message}\n".encode())
    os._exit(_EXIT_INTERRUPTED)
