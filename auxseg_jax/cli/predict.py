"""`auxseg predict`."""

import argparse
import sys

from auxseg_jax.cli import options

DESCRIPTION = """Segments photos with the last trained stage of a workdir. It writes an indexed PNG
with the same name and size for every photo, and classes.csv with the class names and colours."""
EXAMPLE = "auxseg predict --workdir=workdirs/photos --input=photos/JPEGImages --output=masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--input",
        required=True,
        action="extend",
        nargs="+",
        metavar="PHOTO",
        help="photos, folders of them, or patterns; may be repeated",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the masks")
    parser.add_argument(
        "--ignore-labels",
        action="store_true",
        help="segment the labelled photos of the run as if their labels were not known",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="write over what somebody else wrote there"
    )
    parser.add_argument(
        "--post",
        action="store_true",
        help="add multi-scale and flip TTA and a dense CRF; about 8 times slower",
    )
    parser.add_argument(
        "--show",
        type=options.parse_list,
        default=[],
        metavar="WHAT,...",
        help="also write overlay, certainty, saliency, cam or affinity (with --point)",
    )
    parser.add_argument(
        "--point",
        type=options.parse_point,
        metavar="x,y",
        help="the pixel whose affinities --show=affinity draws",
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the masks; photos that cannot be read are listed at the end."""
    from auxseg_jax import api
    from auxseg_jax.files.terminal import stdout

    count, faults = api.predict_files(
        arguments.workdir,
        arguments.input,
        arguments.output,
        post=arguments.post,
        show=arguments.show,
        point=arguments.point,
        overwrite=arguments.overwrite,
        use_labels=not arguments.ignore_labels,
    )
    stdout.print(f"{count} masks in {arguments.output}", markup=False)
    if faults:
        sys.exit("\n  ".join([f"error: {len(faults)} photos could not be read:", *faults]))
