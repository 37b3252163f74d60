"""`auxseg predict`."""

import argparse
import glob
import os
import sys

from auxseg_jax.cli import options

DESCRIPTION = """Segments photos with the last trained stage of a workdir. It writes an indexed PNG
with the same name and size for every photo, and classes.csv with the class names and colours."""
EXAMPLE = "auxseg predict --workdir=workdirs/photos --input='photos/*.jpg' --output=masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PHOTO", help="photos, or patterns of them"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the masks")
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
        help="also write overlay, saliency, cam or affinity (with --point)",
    )
    parser.add_argument(
        "--point",
        type=options.parse_point,
        metavar="x,y",
        help="the pixel whose affinities --show=affinity draws",
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the masks; photos that cannot be read are listed at the end."""
    from auxseg_jax.files.terminal import stdout

    count, faults = predict_files(
        arguments.workdir,
        arguments.input,
        arguments.output,
        post=arguments.post,
        show=arguments.show,
        point=arguments.point,
    )
    stdout.print(f"{count} masks in {arguments.output}", markup=False)
    if faults:
        sys.exit("\n  ".join([f"error: {len(faults)} photos could not be read:", *faults]))


def predict_files(workdir, patterns, output_dir, *, post=False, show=(), point=None):
    """Segments photo files into a folder; see `inference.output` for what is written.

    Returns:
      How many were segmented, and a line for each photo that cannot be read.

    Raises:
      UserError: there is no photo, or none can be read; masks would overwrite photos; or what
        `api.load` and `Predictor.check_show` raise.
    """
    from etils import epath

    from auxseg_jax import api
    from auxseg_jax.errors import UserError
    from auxseg_jax.inference import output
    from auxseg_jax.inference.photo_files import PhotoFiles

    predictor = api.load(workdir)
    paths = _find_photos(patterns)
    _refuse_overwriting(paths, epath.Path(output_dir))
    if unknown := [name for name in show if name not in output.FOLDERS]:
        known = ", ".join(name for name in output.FOLDERS if name in predictor.can_show)
        raise UserError(f"this network cannot show {', '.join(unknown)}; it can show {known}")
    predictor.check_show(show, point)
    photos = PhotoFiles(paths)
    if not photos.sizes:
        raise UserError("\n  ".join(["no photo can be read:", *photos.faults]))
    predictor.check_show(show, point, photos.sizes)

    def write(name, maps):
        output.write(output_dir, name, maps, predictor.classes)

    title = f"segmentation by {predictor.stage}"
    predictor.run(title, photos, write, post=post, show=show, point=point)
    output.write_classes(output_dir, predictor.classes)
    return len(photos), photos.faults


def _find_photos(patterns):
    from etils import epath

    from auxseg_jax.errors import UserError

    found = set()
    for pattern in patterns:
        matches = glob.glob(os.path.expanduser(pattern), recursive=True)
        if not matches:
            raise UserError(f"no file matches --input={pattern!r}")
        found.update(matches)
    return sorted(map(epath.Path, found))


def _refuse_overwriting(paths, folder):
    from auxseg_jax.errors import UserError
    from auxseg_jax.inference import output

    written = {folder / f"{path.stem}.png" for path in paths}
    for kind, ending in output.FOLDERS.items():
        written |= {folder / kind / f"{path.stem}{ending}" for path in paths}
    overwritten = {path.resolve() for path in paths} & {path.resolve() for path in written}
    if overwritten:
        raise UserError(
            f"the masks would overwrite the photos, {min(overwritten)} first; "
            "choose another --output"
        )
