"""`voc2012_wsss`: PASCAL VOC 2012 with the additional training photos of SBD (Hariharan et al., ICCV 2011).

`root` holds, as downloaded or unpacked (where both are there, unpacked):

VOCtrainval_11-May-2012.tar, VOC2012test.tar     or VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets,Annotations}
benchmark.tgz                                    or benchmark_RELEASE/dataset/{cls,train.txt,val.txt}; for the split train_aug
Saliency/<id>.png                                of any saliency network

Splits: train 1,464, val 1,449, test 1,456 (no masks, no labels), and train_aug 10,582: the photos of train and of SBD that are not in val.
Image-level labels are the classes of the objects in Annotations/<id>.xml. Masks, to evaluate: SegmentationClass, else SBD's.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from auxseg_jax import files
from auxseg_jax.data import labels as labels_lib
from auxseg_jax.data import listing
from auxseg_jax.terminal import console

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
COUNTS = {"train_aug": 10582, "train": 1464, "val": 1449, "test": 1456}
_VOC_TARS, _SBD_TAR = ("VOCtrainval_11-May-2012.tar", "VOC2012test.tar"), "benchmark.tgz"
# as TFDS (sha256) and torchvision (md5) have them; they stand for the lists of ids within
_CHECKSUMS = {
    "VOCtrainval_11-May-2012.tar": ("sha256", "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"),
    "VOC2012test.tar": ("sha256", "f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3"),
    "benchmark.tgz": ("md5", "82b4d87ceb2ed10f6038a1cba92111cb"),
}


def read(root: str, splits: Sequence[str], *, saliency: str, unpack_dir: epath.PathLike) -> tuple[listing.Listing, list[str]]:
    """Reads the lists for the splits named, and checks that every file they name is there.

    Args:
      root: see the module.
      splits: of those in COUNTS.
      saliency: see `listing.saliency_folders`.
      unpack_dir: where archives are unpacked, once.

    Returns:
      The listing, and every fault found. Splits with other counts than the official ones are remarks.

    Raises:
      DataError: there is no such folder, or neither the folders nor the archives are in it.
    """
    path, unpack_dir = listing.find_root(root), epath.Path(unpack_dir).expanduser()
    voc = _folders(path, ("VOCdevkit/VOC2012", "VOC2012", "."), "JPEGImages", _VOC_TARS, unpack_dir, "VOCdevkit/VOC2012")
    sbd = _folders(path, ("benchmark_RELEASE/dataset", "dataset", "sbd"), "cls", (_SBD_TAR,), unpack_dir, "benchmark_RELEASE/dataset")
    faults: list[str] = []
    if not voc:
        faults.append(f"neither VOCdevkit/VOC2012 nor {_VOC_TARS[0]} is there")
    if "train_aug" in splits and not sbd:
        faults.append(f"train_aug needs SBD: neither benchmark_RELEASE/dataset nor {_SBD_TAR} is there")
    faults += [f"there is no split {split!r}; there are {', '.join(COUNTS)}" for split in splits if split not in COUNTS]
    if faults:
        raise listing.DataError(root, faults)
    own = {split: _split(voc, split, faults) for split in {*splits, *(("train", "val") if "train_aug" in splits else ())} - {"train_aug"}}
    ids = {split: _train_aug(own, sbd, faults) if split == "train_aug" else own[split] for split in splits}
    everyone = dict.fromkeys(name for names in ids.values() for name in names)
    images, annotations, pngs = (_index(voc, kind) for kind in ("JPEGImages", "Annotations", "SegmentationClass"))
    mats = _index(sbd, "cls")
    faults += [f"{name}: no photo JPEGImages/{name}.jpg" for name in everyone if f"{name}.jpg" not in images]
    vectors = {}
    for name in everyone:
        vectors[name] = np.zeros(len(CLASSES) - 1, np.uint8)
        if f"{name}.xml" not in annotations:
            if name not in ids.get("test", ()):
                faults.append(f"{name}: no Annotations/{name}.xml")
            continue
        try:
            found = {name: (f"Annotations/{name}.xml", labels_lib.xml_classes(annotations[f"{name}.xml"]))}
            vectors[name] = labels_lib.vectors(found, CLASSES, faults)[name]
        except (OSError, ValueError) as error:
            faults.append(f"Annotations/{name}.xml: {error}")
    maps = listing.find_saliency(listing.saliency_folders(path, saliency), everyone, faults)
    photos = {}
    for split, names in ids.items():
        mask = dict.fromkeys(names)
        if split != "test":  # it has none; and SBD's masks are not those of VOC's own splits
            mask = {name: pngs.get(f"{name}.png", mats.get(f"{name}.mat") if split == "train_aug" else None) for name in names}
            faults += [f"{name}: no mask SegmentationClass/{name}.png" for name in names if mask[name] is None]
        image = {name: images.get(f"{name}.jpg", path / "JPEGImages" / f"{name}.jpg") for name in names}
        photos[split] = [listing.Photo(name, image[name], vectors[name], maps[name], mask[name]) for name in names]
    remarks = [f"{split} holds {len(names)} photos, the official one {COUNTS[split]}" for split, names in ids.items() if len(names) != COUNTS[split]]
    lists = sorted({annotations[f"{name}.xml"] for name in everyone if f"{name}.xml" in annotations})
    return listing.Listing(path, CLASSES, photos, lists, remarks), faults


def _folders(root, candidates, sign, archives, unpack_dir, inside) -> list[epath.Path]:
    """The unpacked folders: those under `root` that hold `sign`, else those of the archives there."""
    found = [root / name for name in candidates if (root / name / sign).is_dir()]
    if found:
        return found[:1]
    return [_unpacked(root / name, unpack_dir) / inside for name in archives if (root / name).exists()]


def _unpacked(archive: epath.Path, unpack_dir: epath.Path) -> epath.Path:
    """Folder with the content of an archive; unpacked once, whole or not at all."""
    stat = archive.stat()
    folder = unpack_dir / f"{archive.name}.{stat.length}.{stat.mtime}"
    with files.lock(unpack_dir / ".lock", wait=True):
        if folder.exists():
            return folder
        aside = unpack_dir / f".{folder.name}"
        if aside.exists():  # of a run that was killed
            aside.rmtree()
        console.print(f"unpacking {archive}", markup=False)
        kind, official = _CHECKSUMS[archive.name]
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != official:
            console.print(f"{archive} is not the official one: its {kind} is {found}, not {official}", markup=False)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(aside, filter="data")  # nothing outside of the folder, no links out of it, no devices
                while tar.fileobj.read(2**20):  # to the checksum at the end
                    pass
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise listing.DataError(archive.parent, [f"{archive.name} cannot be unpacked: {error}"]) from error
        aside.rename(folder)
    return folder


def _index(folders: Sequence[epath.Path], kind: str) -> dict[str, epath.Path]:
    return {name: folder / kind / name for folder in folders for name in listing.file_names(folder / kind)}


def _split(voc: Sequence[epath.Path], split: str, faults: list[str]) -> tuple[str, ...]:
    relative = f"ImageSets/Segmentation/{split}.txt"
    found = [folder / relative for folder in voc if (folder / relative).exists()]
    return listing.read_split(found[0] if found else voc[0] / relative, faults)


def _train_aug(own: Mapping[str, Sequence[str]], sbd: Sequence[epath.Path], faults: list[str]) -> tuple[str, ...]:
    theirs = [name for split in ("train", "val") for name in listing.read_split(sbd[0] / f"{split}.txt", faults)]
    return tuple(sorted({*theirs, *own["train"]} - set(own["val"])))
