"""The archive that the evaluation server of PASCAL VOC 2012 takes, and a check of it.

It holds results/VOC2012/Segmentation/comp6_test_cls/<id>.png for every id: indexed, with VOC's
palette, of the photo's size, with labels 0 to 20. comp6 is the competition for networks that saw
other data than VOC's.
"""

import collections
import io
import tarfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax.data import features, listing, photo_names
from auxseg_jax.errors import UserError, collect, fault, raise_faults
from auxseg_jax.files import storage
from auxseg_jax.pixel_labels import palette

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
COUNT = 1456  # Photos of the test split.
_LABELS = 21

ReadFile = Callable[[str], bytes | None]
"""Photo's id -> its PNG, or None if there is none."""


def export(
    predictions: epath.PathLike,
    photos: epath.PathLike,
    ids: Sequence[str],
    output: epath.PathLike,
) -> None:
    """Writes the archive; nothing if there is any fault.

    Args:
      predictions: folder of <id>.png.
      photos: folder of <id>.jpg.
      ids: the ids of the test split.
      output: the .tar.gz to write.

    Raises:
      UserError: lists every fault.
    """
    predictions = epath.Path(predictions)
    files = photo_names.file_names(predictions)

    def read(name: str) -> bytes | None:
        path = predictions / f"{name}.png"
        return path.read_bytes() if path.name in files else None

    raise_faults(predictions, find_faults(read, photos, ids))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ids:
            entry = tarfile.TarInfo(f"{FOLDER}/{name}.png")
            data = (predictions / f"{name}.png").read_bytes()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    storage.write_bytes(output, buffer.getvalue())


def check(archive: epath.PathLike, photos: epath.PathLike, ids: Sequence[str]) -> None:
    """Checks an archive.

    Args:
      archive: the .tar.gz.
      photos: folder of <id>.jpg.
      ids: the ids of the test split.

    Raises:
      UserError: lists every fault: files that are missing, too many, in another folder, or not as
        the server wants them.
    """
    path = epath.Path(archive)
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as tar:
            entries = [
                (member.name.removeprefix("./"), _content(tar, member))
                for member in tar
                if not member.isdir()
            ]
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} cannot be read as a .tar.gz: {error}") from error
    members = dict(entries)
    wanted = {f"{FOLDER}/{name}.png" for name in ids}
    advice = f"does not belong there; the server wants {FOLDER}/<id>.png of the ids"
    faults = [f"{name}: {advice}" for name in sorted(members.keys() - wanted)]
    counts = collections.Counter(name for name, _ in entries)
    faults += [f"{name}: is there {n} times" for name, n in counts.items() if n > 1]
    links = [name for name, data in entries if data is None]
    faults += [f"{name}: is a link or a device, not a file" for name in links]
    faults += find_faults(lambda name: members.get(f"{FOLDER}/{name}.png"), photos, ids)
    raise_faults(archive, faults)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    file = tar.extractfile(member)
    return file.read() if file else None


def find_faults(read: ReadFile, photos: epath.PathLike, ids: Sequence[str]) -> list[str]:
    """Returns every fault of the PNGs of the ids."""
    faults = []
    for name in ids:
        data = read(name)
        if data is None:
            faults.append(f"{name}: no {name}.png")
            continue
        try:
            plane, colours = _read_indexed(data)
            size = features.check_image((epath.Path(photos) / f"{name}.jpg").read_bytes())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            faults.append(f"{name}: {error}")
            continue
        if plane.shape != size:
            shape = f"{plane.shape[1]}x{plane.shape[0]}"
            faults.append(f"{name}: it is {shape}, the photo {size[1]}x{size[0]}")
        if not np.array_equal(colours[:_LABELS], palette()[:_LABELS]):
            faults.append(f"{name}: its palette is not VOC's")
        if (plane >= _LABELS).any():
            last = _LABELS - 1
            faults.append(f"{name}: labels up to {plane.max()}; the server knows 0 to {last}")
    return faults


def _read_indexed(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices [H, W] and the palette [N, 3] of an indexed PNG."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.format != "PNG" or image.mode != "P":
            kind = f"{image.format} of mode {image.mode}"
            raise UserError(f"it is {kind}; the server wants an indexed PNG (mode P)")
        colours = np.asarray(image.getpalette() or [], np.uint8).reshape(-1, 3)
        return np.asarray(image), colours


def read_ids(path: epath.PathLike, count: int = COUNT) -> tuple[str, ...]:
    """Reads the ids of the test split.

    Raises:
      UserError: the list is broken, or has another number of ids.
    """
    with collect(path):
        ids = listing.read_split(epath.Path(path))
        if len(ids) != count:
            fault(f"names {len(ids)} photos, the test split has {count} (--count)")
    return ids
