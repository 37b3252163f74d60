"""The archive that the evaluation server of PASCAL VOC 2012 takes, and a check of it.

    python -m auxseg_jax.evaluation.voc_server --predictions DIR --photos JPEGImages --ids test.txt --to results.tar.gz
    python -m auxseg_jax.evaluation.voc_server --check results.tar.gz --photos JPEGImages --ids test.txt

DIR holds <id>.png, as `launch.py --mode=predict` writes them. The archive holds results/VOC2012/Segmentation/comp6_test_cls/<id>.png of every id:
indexed, with VOC's palette, size of the photo, labels 0 to 20. comp6 is the competition for networks that saw other data than VOC's.
"""

import argparse
import collections
import io
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax import files
from auxseg_jax.data import features, listing

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
COUNT = 1456  # photos of the test split
_LABELS = 21


def export(predictions: epath.PathLike, photos: epath.PathLike, ids: Sequence[str], output: epath.PathLike) -> None:
    """Writes the archive `output`; nothing if there is any fault.

    Args:
      predictions: folder of <id>.png.
      photos: folder of <id>.jpg.
      ids: of the test split.
      output: a .tar.gz.

    Raises:
      ValueError: every fault, as `faults_of` names them.
    """
    predictions = epath.Path(predictions)
    there = listing.file_names(predictions)
    faults = faults_of(lambda name: (predictions / f"{name}.png").read_bytes() if f"{name}.png" in there else None, photos, ids)
    if faults:
        raise listing.DataError(predictions, faults)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ids:
            entry = tarfile.TarInfo(f"{FOLDER}/{name}.png")
            data = (predictions / f"{name}.png").read_bytes()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    files.write_bytes(output, buffer.getvalue())


def check(archive: epath.PathLike, photos: epath.PathLike, ids: Sequence[str]) -> list[str]:
    """Every fault of an archive: files that are missing, too many, in another folder, or not as the server wants them."""
    path = epath.Path(archive)
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as tar:
            found = [(member.name.removeprefix("./"), tar.extractfile(member)) for member in tar if not member.isdir()]
            entries = [(name, file and file.read()) for name, file in found]
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        return [f"{path.name} cannot be read as a .tar.gz: {error}"]
    members = dict(entries)
    wanted = {f"{FOLDER}/{name}.png" for name in ids}
    faults = [f"{name}: does not belong there; the server wants {FOLDER}/<id>.png of the ids" for name in sorted(members.keys() - wanted)]
    faults += [f"{name}: is there {count} times" for name, count in collections.Counter(name for name, _ in entries).items() if count > 1]
    faults += [f"{name}: is a link or a device, not a file" for name, data in entries if data is None]
    return faults + faults_of(lambda name: members.get(f"{FOLDER}/{name}.png"), photos, ids)


def faults_of(read: Callable[[str], bytes | None], photos: epath.PathLike, ids: Sequence[str]) -> list[str]:
    """Every fault of the PNGs that read(id) gives, None where there is none."""
    faults = []
    for name in ids:
        data = read(name)
        if data is None:
            faults.append(f"{name}: no {name}.png")
            continue
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                if image.format != "PNG" or image.mode != "P":
                    raise ValueError(f"it is {image.format} of mode {image.mode}; the server wants an indexed PNG (mode P)")
                colours, plane = np.asarray(image.getpalette() or [], np.uint8).reshape(-1, 3), np.asarray(image)
            size = features.check_image((epath.Path(photos) / f"{name}.jpg").read_bytes())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            faults.append(f"{name}: {error}")
            continue
        if plane.shape != size:
            faults.append(f"{name}: it is {plane.shape[1]}x{plane.shape[0]}, the photo {size[1]}x{size[0]}")
        if not np.array_equal(colours[:_LABELS], files.palette()[:_LABELS]):
            faults.append(f"{name}: its palette is not VOC's")
        if (plane >= _LABELS).any():
            faults.append(f"{name}: labels up to {plane.max()}; the server knows 0 to {_LABELS - 1}")
    return faults


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m auxseg_jax.evaluation.voc_server")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--predictions", metavar="DIR", help="folder of <id>.png, to pack")
    what.add_argument("--check", metavar="FILE", help="archive to check")
    parser.add_argument("--photos", required=True, metavar="DIR", help="folder of <id>.jpg")
    parser.add_argument("--ids", required=True, metavar="FILE", help="ImageSets/Segmentation/test.txt")
    parser.add_argument("--count", type=int, default=COUNT, help=f"number of ids there must be; {COUNT}")
    parser.add_argument("--to", metavar="FILE", help="with --predictions: the .tar.gz to write")
    arguments = parser.parse_args()
    if arguments.predictions and not arguments.to:
        parser.error("--predictions needs --to")
    faults: list[str] = []
    try:
        ids = listing.read_split(epath.Path(arguments.ids), faults)
        if len(ids) != arguments.count:
            faults.append(f"names {len(ids)} photos, the test split has {arguments.count} (--count)")
        if faults:
            raise listing.DataError(arguments.ids, faults)
        if arguments.predictions:
            export(arguments.predictions, arguments.photos, ids, arguments.to)
        elif faults := check(arguments.check, arguments.photos, ids):
            raise listing.DataError(arguments.check, faults)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.to or arguments.check}: {len(ids)} masks, as the server wants them")


if __name__ == "__main__":
    main()
