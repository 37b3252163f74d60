"""Trains AuxSegNet+, or segments photos with a trained one.

python launch.py --config=configs/demo.py --workdir=workdirs/demo
python launch.py --mode=predict --workdir=workdirs/demo --input='photos/*.jpg' --output=masks
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/demo.py; single fields by --config.section.field=value.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: everything it writes, and what it resumes from.", required=True)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "predict"], "train: run, or go on with, the whole method. predict: segment photos.")
_INPUT = flags.DEFINE_string("input", None, "predict: the photos, a pattern such as 'DIR/*.jpg'.")
_OUTPUT = flags.DEFINE_string("output", None, "predict: folder for the masks.")


def main(argv: list[str]) -> None:
    """Dispatches on --mode."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]} (quote the pattern of --input)")
    logging.set_verbosity(logging.WARNING)
    from auxseg_jax import platform, stages
    from auxseg_jax.report import table
    from auxseg_jax.training.loop import NonFiniteError
    from auxseg_jax.training.writer import console

    try:
        if _MODE.value == "predict":
            if not (_INPUT.value and _OUTPUT.value):
                raise app.UsageError("--mode=predict needs --input and --output")
            count = stages.predict_photos(_WORKDIR.value, _INPUT.value, _OUTPUT.value)
            console.print(f"{count} masks in {_OUTPUT.value}")
            return
        if _CONFIG.value is None:
            raise app.UsageError("--mode=train needs --config")
        platform.set_compilation_cache(_CONFIG.value.compilation_cache)
        results = stages.run(_CONFIG.value, _WORKDIR.value)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on from {_WORKDIR.value}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, FileNotFoundError, NonFiniteError) as error:
        sys.exit(f"error: {error}")
    table.show(results, console)
    console.print(f"results: {_WORKDIR.value}/results.json   masks: {_WORKDIR.value}/stage_*/val   pseudo labels: {_WORKDIR.value}/stage_*/pseudo")


if __name__ == "__main__":
    app.run(main)
