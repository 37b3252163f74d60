"""`auxseg labels`."""

import argparse

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


def run(arguments: argparse.Namespace) -> None:
    """Reads and writes labels."""
    from etils import epath

    from auxseg_jax.data import folder_layout, label_tables, listing
    from auxseg_jax.errors import collect, fault

    with collect(arguments.source):
        classes = None
        if arguments.classes:
            classes = [line for _, line in listing.read_lines(epath.Path(arguments.classes))]
            if not classes:
                fault(f"{arguments.classes}: names no class")
            listing.check_classes(classes, arguments.classes)
        ids = []
        if arguments.ids:
            ids = [line for _, line in listing.read_lines(epath.Path(arguments.ids))]
        labels = label_tables.read(arguments.source)
        if ids:
            labels = label_tables.with_ids(labels, ids)
    if epath.Path(arguments.target).is_dir():
        layout = folder_layout.lay_out(arguments.target, labels, classes, arguments.val_share)
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
    label_tables.write(arguments.target, named)
    print(f"{arguments.target}: {len(named)} photos")
