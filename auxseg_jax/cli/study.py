"""`auxseg study`."""

import argparse
import re
import sys

from auxseg_jax.cli import options

DESCRIPTION = """Compares rows of fields over seeds: trains every row with every seed, each in a
workdir of its own, and writes a table with intervals (study.json, study.md, study.html). Phases
that runs share, as the classifier, are run once. It can be stopped; the same command goes on."""
EXAMPLE = (
    "auxseg study --study=dual --config=msrc:ablation --config.data.root=DIR --workdir=studies/dual"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--study",
        required=True,
        metavar="NAME",
        help="a study that comes with the package (docs/studies.md), or a JSON file",
    )
    options.add_config(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the study")
    parser.add_argument(
        "--seeds", type=_parse_count, default=3, metavar="N", help="seeds 0 to N - 1; 3 by default"
    )
    parser.add_argument(
        "--shard",
        type=_parse_shard,
        default=(0, 1),
        metavar="I/N",
        help="do only the runs of share I of N (from 0), for an array job on a cluster",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs what is left of the study, and prints its table."""
    from auxseg_jax.config.validation import checked
    from auxseg_jax.devices import preemption
    from auxseg_jax.errors import UserError
    from auxseg_jax.files.terminal import stdout
    from auxseg_jax.studies import definitions, study, summary

    def load(flags):
        name, *overrides = flags
        named = argparse.Namespace(config=name.removeprefix("--config="), overrides=overrides)
        return checked(options.load_config(named))

    found = definitions.find(arguments.study)
    if any(re.match(r"--(no)?config\.seed\b", flag) for flag in arguments.overrides):
        raise UserError("--config.seed: every row runs with the seeds 0, 1, ... of --seeds")
    spec = study.Spec(
        arguments.study, found, arguments.config, arguments.overrides, arguments.seeds
    )
    folder = study.StudyFolder(arguments.workdir, spec)
    try:
        failed = study.run_all(folder, load, lambda: summary.write(folder), arguments.shard)
    except preemption.Preempted as error:
        options.end(f"{error}; the same command goes on", preemption.EXIT_CODE)
    stdout.print(summary.markdown(summary.write(folder)), markup=False)
    if failed:
        sys.exit(f"error: {failed} runs failed; see {folder}/logs")


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{,2}", text):
        raise argparse.ArgumentTypeError("it takes a whole number from 1 to 999")
    return int(text)


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError("it takes I/N, as 0/4, 1/4, 2/4, 3/4")
    return int(match[1]), int(match[2])
