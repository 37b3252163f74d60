"""`auxseg profile`."""

import argparse

from auxseg_jax.cli import options

DESCRIPTION = """Times the loader and the train step of a config, and says where the step's time
goes. With --photo it times the dense CRF on that photo, at four sizes."""
EXAMPLE = "auxseg profile --config=msrc --config.data.root=photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    options.add_config(parser)
    parser.add_argument("--photo", metavar="FILE", help="time the CRF on this photo instead")


def run(arguments: argparse.Namespace) -> None:
    """Prints the figures as JSON."""
    from auxseg_jax.analysis import timing
    from auxseg_jax.files.terminal import stdout

    config = options.load_config(arguments)
    if arguments.photo:
        figures = [row.to_json() for row in timing.time_crf(config, arguments.photo)]
    else:
        figures = timing.time_training(config).to_json()
    stdout.print_json(data=figures)
