"""`auxseg prepare`."""

import argparse

from auxseg_jax.cli import options

DESCRIPTION = """Checks and prepares the data set of a config, as a run does when it begins, and
says what it holds. The last line is the folder of the prepared copy. The copy can be moved, and
with --config.data.prepared=FOLDER a run reads it alone."""
EXAMPLE = "auxseg prepare --config=voc --config.data.root=DIR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    options.add_config(parser)


def run(arguments: argparse.Namespace) -> None:
    """Prepares the data, and prints what they hold and where they are."""
    from auxseg_jax.config.validation import checked
    from auxseg_jax.data import about, dataset
    from auxseg_jax.files.terminal import say, stdout

    config = options.load_config(arguments)
    config = checked(config)
    data = dataset.prepare(**config.data)
    for line in about.read(data.directory).lines():
        say(line)
    stdout.print(data.directory, markup=False)
