"""`auxseg voc-archive`."""

import argparse

DESCRIPTION = """Packs predictions for the evaluation server of PASCAL VOC 2012, or checks an
archive for it. Masks are as `auxseg predict` writes them: indexed, with VOC's palette, of the
photo's size."""
EXAMPLE = (
    "auxseg voc-archive --predictions=masks --photos=JPEGImages --ids=test.txt --to=results.tar.gz"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--predictions", metavar="DIR", help="folder of <id>.png, to pack")
    what.add_argument("--check", metavar="FILE", help="archive to check")
    parser.add_argument("--photos", required=True, metavar="DIR", help="folder of <id>.jpg")
    parser.add_argument(
        "--ids", required=True, metavar="FILE", help="ImageSets/Segmentation/test.txt"
    )
    parser.add_argument("--count", type=int, metavar="N", help="number of ids there must be (1456)")
    parser.add_argument("--to", metavar="FILE", help="with --predictions: the .tar.gz to write")


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses flags that do not go together."""
    if arguments.predictions and not arguments.to:
        parser.error("--predictions needs --to")


def run(arguments: argparse.Namespace) -> None:
    """Packs or checks."""
    from auxseg_jax.evaluation import voc_archive

    count = voc_archive.COUNT if arguments.count is None else arguments.count
    ids = voc_archive.read_ids(arguments.ids, count)
    if arguments.predictions:
        voc_archive.export(arguments.predictions, arguments.photos, ids, arguments.to)
    else:
        voc_archive.check(arguments.check, arguments.photos, ids)
    archive = arguments.to or arguments.check
    print(f"{archive}: {len(ids)} masks, as the server wants them")
