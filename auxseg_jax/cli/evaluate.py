"""`auxseg evaluate`."""

import argparse

from auxseg_jax.cli import options

DESCRIPTION = """Scores a folder of anybody's label PNGs by the masks of a split: mIoU with 255 left
out and as a miss, precision, recall, and each class. A folder of CAMs (.npy or .npz, as PSA and IRN
write them) gets a threshold sweep, marked as an oracle."""
EXAMPLE = "auxseg evaluate --config=msrc --config.data.root=photos --predictions=masks --split=val"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    options.add_config(parser)
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="DIR",
        help="folder of <id>.png (labels), or of <id>.npy or <id>.npz (CAMs)",
    )
    parser.add_argument("--split", metavar="NAME", help="the split; the config's val_split")


def run(arguments: argparse.Namespace) -> None:
    """Prints the score as JSON."""
    from auxseg_jax import api
    from auxseg_jax.evaluation.scores import to_json
    from auxseg_jax.files.terminal import stdout

    config = options.load_config(arguments)
    evaluation = api.evaluate(config, arguments.predictions, arguments.split)
    stdout.print_json(data={"split": evaluation.split, **to_json(evaluation.score)})
