"""`voc2012_wsss`: PASCAL VOC 2012 with the additional training photos of SBD (ICCV 2011).

`root` holds, as downloaded or unpacked (where both are there, the unpacked ones count):

VOCtrainval_11-May-2012.tar, VOC2012test.tar   or VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,
                                               ImageSets,Annotations}
benchmark.tgz                                  or benchmark_RELEASE/dataset/{cls,train.txt,val.txt};
                                               for the split train_aug
Saliency/<id>.png                              of any saliency network

Splits: train 1,464, val 1,449, test 1,456 (no masks, no labels), and train_aug 10,582: the photos
of train and of SBD that are not in val. Image-level labels are the classes of the objects in
Annotations/<id>.xml. Masks, to evaluate, come from SegmentationClass, else from SBD.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from auxseg_jax.data import label_tables, listing, photo_names
from auxseg_jax.errors import UserError, fault, raise_faults
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import say

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
COUNTS = {"train_aug": 10582, "train": 1464, "val": 1449, "test": 1456}
_VOC_TARS, _SBD_TAR = ("VOCtrainval_11-May-2012.tar", "VOC2012test.tar"), "benchmark.tgz"
# Checksums as TFDS (sha256) and torchvision (md5) publish them. They stand for the lists of ids.
_CHECKSUMS = {
    "VOCtrainval_11-May-2012.tar": (
        "sha256",
        "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    ),
    "VOC2012test.tar": (
        "sha256",
        "f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3",
    ),
    "benchmark.tgz": ("md5", "82b4d87ceb2ed10f6038a1cba92111cb"),
}


def read(
    root: str, splits: Sequence[str], *, planes: Mapping[str, str], unpack_dir: epath.PathLike
) -> listing.Listing:
    """Reads the lists of `root`, and reports the faults in them and the files that are absent.

    A split with another number of photos than the official one is a remark.

    Args:
      root: see the module.
      splits: keys of COUNTS.
      planes: {plane: folders}, see `listing.find_planes`.
      unpack_dir: where archives are unpacked, once.

    Raises:
      UserError: there is no such folder or split, or neither the folders nor the archives.
    """
    path = listing.find_root(root)
    voc, sbd = _find_folders(path, epath.Path(unpack_dir).expanduser())
    raise_faults(root, _missing_parts(splits, voc, sbd))
    ids = _read_splits(splits, voc, sbd)
    everyone = list(dict.fromkeys(name for names in ids.values() for name in names))
    images = _index(voc, "JPEGImages")
    for name in everyone:
        if f"{name}.jpg" not in images:
            fault(f"{name}: no photo JPEGImages/{name}.jpg")
    annotations = _index(voc, "Annotations")
    vectors = _read_labels(everyone, annotations, unlabelled=set(ids.get("test", ())))
    files_of = listing.find_planes(path, planes, everyone)
    pngs, mats = _index(voc, "SegmentationClass"), _index(sbd, "cls")
    photos = {}
    for split, names in ids.items():
        masks = _find_masks(split, names, pngs, mats)
        absent = path / "JPEGImages"
        photos[split] = [
            listing.Photo(
                name,
                images.get(f"{name}.jpg", absent / f"{name}.jpg"),
                vectors[name],
                files_of[name],
                masks[name],
            )
            for name in names
        ]
    remarks = [
        f"{split} holds {len(names)} photos, the official one {COUNTS[split]}"
        for split, names in ids.items()
        if len(names) != COUNTS[split]
    ]
    files = {annotations[f"{name}.xml"] for name in everyone if f"{name}.xml" in annotations}
    return listing.Listing(path, CLASSES, photos, sorted(files), remarks)


def _find_folders(
    root: epath.Path, unpack_dir: epath.Path
) -> tuple[list[epath.Path], list[epath.Path]]:
    """Returns the unpacked folders of VOC and of SBD."""
    voc = ("VOCdevkit/VOC2012", "VOC2012", ".")
    sbd = ("benchmark_RELEASE/dataset", "dataset", "sbd")
    return (
        _unpacked_folders(root, voc, "JPEGImages", _VOC_TARS, unpack_dir),
        _unpacked_folders(root, sbd, "cls", (_SBD_TAR,), unpack_dir),
    )


def _missing_parts(
    splits: Sequence[str], voc: Sequence[epath.Path], sbd: Sequence[epath.Path]
) -> list[str]:
    faults = []
    if not voc:
        faults.append(f"neither VOCdevkit/VOC2012 nor {_VOC_TARS[0]} is there")
    if "train_aug" in splits and not sbd:
        faults.append(
            f"train_aug needs SBD: neither benchmark_RELEASE/dataset nor {_SBD_TAR} is there"
        )
    known = ", ".join(COUNTS)
    faults += [f"there is no split {s!r}; there are {known}" for s in splits if s not in COUNTS]
    return faults


def _unpacked_folders(
    root: epath.Path,
    candidates: Sequence[str],
    sign: str,
    archives: Sequence[str],
    unpack_dir: epath.Path,
) -> list[epath.Path]:
    """Returns the folder under `root` that holds `sign`, else those of the archives there."""
    unpacked = [root / name for name in candidates if (root / name / sign).is_dir()]
    if unpacked:
        return unpacked[:1]
    present = [root / name for name in archives if (root / name).exists()]
    return [_unpack(archive, unpack_dir) / candidates[0] for archive in present]


def _unpack(archive: epath.Path, unpack_dir: epath.Path) -> epath.Path:
    """Unpacks an archive once, whole or not at all, and returns the folder."""
    stat = archive.stat()
    folder = unpack_dir / f"{archive.name}.{stat.length}.{stat.mtime}"
    with storage.lock(unpack_dir / ".lock", wait=True):
        if folder.exists():
            return folder
        partial = unpack_dir / f".{folder.name}"
        if partial.exists():  # A run that was killed left it.
            partial.rmtree()
        say(f"unpacking {archive}")
        _compare_checksum(archive)
        try:
            with tarfile.open(archive) as tar:
                # The filter refuses files outside of the folder, links out of it, and devices.
                tar.extractall(partial, filter="data")
                while tar.fileobj.read(2**20):  # The checksum stands at the end.
                    pass
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise UserError(f"{archive} cannot be unpacked: {error}") from error
        partial.rename(folder)
    return folder


def _compare_checksum(archive: epath.Path) -> None:
    kind, official = _CHECKSUMS[archive.name]
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, kind).hexdigest()
    if digest != official:
        say(f"{archive} is not the official one: its {kind} is {digest}, not {official}")


def _index(folders: Sequence[epath.Path], kind: str) -> dict[str, epath.Path]:
    """Returns {file name: path} of a subfolder of several folders."""
    return {
        name: folder / kind / name
        for folder in folders
        for name in photo_names.file_names(folder / kind)
    }


def _read_splits(
    splits: Sequence[str], voc: Sequence[epath.Path], sbd: Sequence[epath.Path]
) -> dict[str, Sequence[str]]:
    """Returns the ids of each split."""
    needed = {*splits, *(("train", "val") if "train_aug" in splits else ())} - {"train_aug"}
    own = {split: _read_split(voc, split) for split in needed}
    ids: dict[str, Sequence[str]] = {}
    for split in splits:
        if split == "train_aug":
            lists = [listing.read_split(sbd[0] / f"{part}.txt") for part in ("train", "val")]
            of_sbd = {name for names in lists for name in names}
            ids[split] = tuple(sorted((of_sbd | set(own["train"])) - set(own["val"])))
        else:
            ids[split] = own[split]
    return ids


def _read_split(voc: Sequence[epath.Path], split: str) -> tuple[str, ...]:
    relative = f"ImageSets/Segmentation/{split}.txt"
    lists = [folder / relative for folder in voc if (folder / relative).exists()]
    return listing.read_split(lists[0] if lists else voc[0] / relative)


def _read_labels(
    names: Sequence[str], annotations: Mapping[str, epath.Path], unlabelled: set[str]
) -> dict[str, np.ndarray]:
    """Returns the label vector of each photo, from the annotation of its objects."""
    vectors = {}
    for name in names:
        vectors[name] = np.zeros(len(CLASSES) - 1, np.uint8)
        where = f"Annotations/{name}.xml"
        if f"{name}.xml" not in annotations:
            if name not in unlabelled:
                fault(f"{name}: no {where}")
            continue
        try:
            classes = label_tables.xml_classes(annotations[f"{name}.xml"])
        except (OSError, ValueError) as error:
            fault(f"{where}: {error}")
            continue
        vectors[name] = label_tables.vectors({name: (where, classes)}, CLASSES)[name]
    return vectors


def _find_masks(
    split: str,
    names: Sequence[str],
    pngs: Mapping[str, epath.Path],
    mats: Mapping[str, epath.Path],
) -> dict[str, epath.Path | None]:
    if split == "test":
        return dict.fromkeys(names)
    masks = {}
    for name in names:
        # SBD's masks differ from VOC's, so they never stand in for those of VOC's own splits.
        of_sbd = mats.get(f"{name}.mat") if split == "train_aug" else None
        masks[name] = pngs.get(f"{name}.png", of_sbd)
        if masks[name] is None:
            fault(f"{name}: no mask SegmentationClass/{name}.png")
    return masks
