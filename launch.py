"""Trains AuxSegNet+, segments photos with a trained one, or scores masks.

python launch.py --config=configs/demo.py --workdir=workdirs/demo
python launch.py --mode=predict --workdir=workdirs/demo --input='photos/*.jpg' --output=masks
"""

import errno
import faulthandler
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/demo.py; single fields by --config.section.field=value.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: everything it writes, and what it resumes from.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "predict", "evaluate", "profile", "compile"],
    "train: run, or go on with, the whole method. predict: segment photos. evaluate: score a folder of label PNGs or CAMs. "
    "profile: time the loader and the train step; with --input, the dense CRF. compile: what the config needs on devices that are not here.",
)
_INPUT = flags.DEFINE_string("input", None, "predict: the photos, a pattern such as 'DIR/*.jpg'. profile: one photo.")
_POST = flags.DEFINE_bool("post", False, "predict: post-process, as config.post and config.crf of the workdir say (views, then the dense CRF).")
_SHOW = flags.DEFINE_list("show", [], "predict: what else to write: overlay, saliency, cam, affinity (with --point), separated by commas.")
_POINT = flags.DEFINE_list("point", [], "predict: x,y in pixels, the pixel whose affinities --show=affinity draws.")
_PREDICTIONS = flags.DEFINE_string("predictions", None, "evaluate: folder of <id>.png (labels), or of <id>.npy or <id>.npz (CAMs).")
_SPLIT = flags.DEFINE_string("split", None, "evaluate: the split whose masks to score against; the config's val_split.")
_OUTPUT = flags.DEFINE_string("output", None, "predict: folder for the masks. compile: file for all figures, as JSON.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "compile: v5e:4x4 and the like (also v5p, v6e; v5e:16x16*2 are two slices), or cpu:8.")
_EFFORT = flags.DEFINE_enum("effort", "fast", ["fast", "full"], "compile: XLA's optimisation; fast is enough for memory and arithmetic.")
_PROGRAMS = flags.DEFINE_list("programs", ["train", "cam", "update", "predict"], "compile: which, separated by commas.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of the run: JAX asks the cluster (TPU pod, SLURM, Kubernetes, MPI).")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Join the other processes where there is no such cluster: host:port of the first.")
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: how many processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: the number of this one, from 0.", lower_bound=0)


_ONLY = {
    "input": ("predict", "profile"),
    "output": ("predict", "compile"),
    "topology": ("compile",),
    **dict.fromkeys(("post", "show", "point"), ("predict",)),
    **dict.fromkeys(("distributed", "coordinator"), ("train",)),
    **dict.fromkeys(("predictions", "split"), ("evaluate",)),
}
_NEEDS = {
    "train": ("config", "workdir"),
    "predict": ("workdir", "input", "output"),
    "evaluate": ("config", "predictions"),
    "profile": ("config",),
    "compile": ("config", "topology"),
}


def _refuse(message: str) -> NoReturn:
    sys.exit(f"error: {message}\n--help lists the flags")


def main(argv: list[str]) -> None:
    """Dispatches on --mode."""
    if len(argv) > 1:
        _refuse(f"unknown arguments: {argv[1:]} (quote the pattern of --input)")
    if _MODE.value == "predict" and _CONFIG.value is not None:
        _refuse("--mode=predict takes the config of --workdir, not --config")
    for name, modes in _ONLY.items():
        if flags.FLAGS[name].value and _MODE.value not in modes:
            _refuse(f"--{name} is of --mode={' and --mode='.join(modes)}")
    if _POINT.value and not (len(_POINT.value) == 2 and all(n.isdecimal() for n in _POINT.value)):
        _refuse("--point takes two numbers, x,y in pixels")
    if len({flag.value is None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)}) > 1:
        _refuse("--coordinator, --processes and --process go together")
    missing = [f"--{name}" for name in _NEEDS[_MODE.value] if not flags.FLAGS[name].value]
    if missing:
        _refuse(f"--mode={_MODE.value} needs {' and '.join(missing)}")
    logging.set_verbosity(logging.WARNING)
    # After the flags, so that --help and mistakes answer at once.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants it ignored, as nohup does
        signal.signal(signal.SIGINT, _stop)
    from auxseg_jax import aot, files, hosts, platform, preemption, profile, stages
    from auxseg_jax.report import table
    from auxseg_jax.terminal import console, first_line, stdout
    from auxseg_jax.training.loop import NonFiniteError

    several = _DISTRIBUTED.value or _COORDINATOR.value is not None
    try:
        if several:
            faulthandler.disable()  # where another process is gone JAX says so, and aborts: the stacks of all threads would bury it
            hosts.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
            console.quiet = stdout.quiet = not hosts.is_first()
        if _MODE.value == "train":
            preemption.install()
        if _MODE.value == "predict":
            point = tuple(map(int, _POINT.value)) if _POINT.value else None
            count, faults = stages.predict_photos(_WORKDIR.value, _INPUT.value, _OUTPUT.value, _POST.value, _SHOW.value, point)
            stdout.print(f"{count} masks in {_OUTPUT.value}", markup=False)
            if faults:
                sys.exit("\n  ".join([f"error: {len(faults)} photos could not be read:", *faults]))
            return
        if _MODE.value == "evaluate":
            stdout.print_json(data=stages.evaluate_folder(_CONFIG.value, _PREDICTIONS.value, _SPLIT.value))
            return
        if _MODE.value == "compile":
            found = aot.run(_CONFIG.value, _TOPOLOGY.value, _EFFORT.value, tuple(_PROGRAMS.value))
            aot.show(found, stdout)
            if _OUTPUT.value:
                files.write_json(_OUTPUT.value, found)
            return
        platform.set_compilation_cache(_CONFIG.value.compilation_cache)
        if _MODE.value == "profile":
            stdout.print_json(data=profile.crf(_CONFIG.value, _INPUT.value) if _INPUT.value else profile.run(_CONFIG.value))
            return
        table.show(stages.run(_CONFIG.value, _WORKDIR.value), stdout)
        stdout.print(f"results: {_WORKDIR.value}/results.json   masks: {_WORKDIR.value}/stage_*/val   pseudo labels: {_WORKDIR.value}/stage_*/pseudo")
    except preemption.Preempted as error:
        _end(f"{error}; the same command goes on from {_WORKDIR.value}", preemption.EXIT_CODE, at_once=several)
    except Exception as error:
        if isinstance(error, ValueError | OSError | NonFiniteError) and _is_ours(error):
            full = f": {_WORKDIR.value}" if isinstance(error, OSError) and error.errno == errno.ENOSPC else ""
            # of a run, at once: libraries that cannot finish what they write would fill the screen
            _end(f"error: {error}{full}", 1, at_once=several or _MODE.value == "train")
        if not several:
            raise
        traceback.print_exc()
        _end(
            f"error: another process of the run is gone, or this one failed: {first_line(error)}\nstart all of them again: they go on",
            1,
            at_once=True,
        )


def _stop(*_: Any) -> None:
    # Not a KeyboardInterrupt, which callbacks of libraries swallow. A workdir survives a kill, so there is nothing to wait for.
    cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    message = "stopped" + (f"; the same command goes on from {_WORKDIR.value}" if _MODE.value == "train" else "")
    os.write(2, f"{cursor}\n{message}\n".encode())
    os._exit(130)


def _end(message: str, code: int, at_once: bool) -> NoReturn:
    """Says why, and ends; `at_once` for one of several processes: an orderly end would wait for the others, which wait for this one."""
    print(message, file=sys.stderr, flush=True)
    if at_once:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _is_ours(error: Exception) -> bool:
    """Whether the message says all: an error of the file system, or one that this package raised, not a library below it."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, OSError) or raised_in.startswith(os.path.join(os.path.dirname(os.path.abspath(__file__)), "auxseg_jax"))


def _parse(argv: list[str]) -> list[str]:
    """Flags; what a config file or an override says wrong comes as one line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        _refuse(f"the config has no such field: {' '.join(str(error).split())}")
    except flags.Error as error:  # of a config file it holds the traceback, whose last line says it
        _refuse(str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: "))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
