"""`auxseg report`."""

import argparse

DESCRIPTION = """Writes report.html into the workdir of a run, finished or not: figures, curves,
photos step by step, affinities, certainty, config and manifest, in one file that needs no network.
A run itself writes it after every phase."""
EXAMPLE = "auxseg report --workdir=workdirs/msrc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")


def run(arguments: argparse.Namespace) -> None:
    """Writes the page, and says where."""
    from auxseg_jax.config.validation import checked
    from auxseg_jax.files.terminal import stdout
    from auxseg_jax.runs import report
    from auxseg_jax.runs.workdir import Workdir

    folder = Workdir(arguments.workdir)
    report.write(folder, checked(folder.read_config()))
    stdout.print(f"{folder.report}", markup=False)
