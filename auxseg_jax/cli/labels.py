"""`auxseg labels`."""

import argparse

from auxseg_jax.cli import options

DESCRIPTION = """Reads image-level labels (.txt, .csv, .json, .npy, or a folder of VOC's .xml) and
writes them as .txt, .csv or .json. With a folder after --to it makes that folder a data set: the
photos in its JPEGImages get classes.txt, image_labels.txt and lists of a training and a validation
split."""
EXAMPLE = "auxseg labels --from=labels.csv --to=photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="FILE",
        help="labels: .txt, .csv, .json, .npy, or a folder of .xml",
    )
    parser.add_argument(
        "--to",
        dest="target",
        required=True,
        metavar="FILE",
        help="labels: .txt, .csv or .json; or a folder that holds JPEGImages",
    )
    parser.add_argument(
        "--classes", metavar="FILE", help="names, one a line, background first; needed for .npy"
    )
    parser.add_argument(
        "--ids", metavar="FILE", help="ids, one a line: for labels whose ids are numbers"
    )
    parser.add_argument(
        "--val-share",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="with a folder after --to: share of the photos for validation (0.2)",
    )

    parser.add_argument(
        "--seed",
        type=options.parse_seed,
        default=0,
        help="with a folder after --to: seed of the splits (0)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace lists that are there and say something else"
    )


def run(arguments: argparse.Namespace) -> None:
    """Reads and writes labels."""
    from etils import epath

    from auxseg_jax.data import folder_layout, label_names, label_tables, listing
    from auxseg_jax.errors import UserError, collect, fault

    with collect(arguments.source):
        classes = None
        if arguments.classes:
            classes = listing.read_class_names(epath.Path(arguments.classes))
            if not classes:
                fault(f"{arguments.classes}: names no class")
            listing.check_classes(classes, arguments.classes)
        ids = []
        if arguments.ids:
            ids = [line for _, line in listing.read_lines(epath.Path(arguments.ids))]
        labels = label_tables.read(arguments.source)
        if ids:
            labels = label_tables.with_ids(labels, ids)
    source, target = epath.Path(arguments.source), epath.Path(arguments.target)
    if not target.is_dir() and not target.suffix:
        raise UserError(
            f"--to={target}: there is no such folder; make it, with the photos in "
            f"{target}/JPEGImages, or name a file .txt, .csv or .json"
        )
    if target.is_dir():
        layout = folder_layout.lay_out(
            target, labels, classes, arguments.val_share, arguments.seed, arguments.force
        )
        print("\n".join(label_names.summary(layout.named)))
        for name, count in layout.written.items():
            print(f"{name}: {count}")
        if not layout.written:
            print("every list was there already")
        if layout.unlabelled:
            shown = ", ".join(layout.unlabelled[:5]) + ", ..." * (len(layout.unlabelled) > 5)
            print(f"{len(layout.unlabelled)} photos have no label and are left out: {shown}")
        return
    with collect(arguments.source):
        named = label_tables.class_names(labels, classes)
    if target.exists() and not (arguments.force and target.resolve() != source.resolve()):
        raise UserError(f"{target} is there already; --force replaces it, unless it is the source")
    label_tables.write(target, named)
    print("\n".join(label_names.summary(named)))
    print(f"{target}: {len(named)} photos")
