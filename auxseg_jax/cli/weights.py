"""`auxseg weights`."""

import argparse

DESCRIPTION = """Reads weights from a PyTorch checkpoint (.pth, .pt, of either format), an MXNet
file (.params), safetensors, or the params folder of a phase. It prints what it found, and writes
DIR/params.safetensors (names of this package, for config.pretrained.path) and
DIR/state_dict.safetensors (names and layout of PyTorch, for load_state_dict)."""
EXAMPLE = "auxseg weights --from=resnet38.params --to=weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="FILE",
        help="file with weights, or the params folder of a phase",
    )
    parser.add_argument(
        "--to", dest="target", required=True, metavar="DIR", help="folder to write to"
    )


def run(arguments: argparse.Namespace) -> None:
    """Converts, and prints the report."""
    from etils import epath

    from auxseg_jax.weights import convert

    print(convert.convert(arguments.source, arguments.target))
    target = epath.Path(arguments.target)
    print(target / convert.PARAMS)
    if (target / convert.STATE_DICT).exists():
        print(target / convert.STATE_DICT)
    else:
        print(f"no {convert.STATE_DICT}: nothing here has a name in PyTorch's weights")
