"""The pictures of a listing: all are decoded and checked before anything is built, by all cores.

The work is kept in chunks of 64 photos, <work>/<split>.<hash of the photos>.npz, each written
whole. After a kill, or when a broken picture has been mended, the other chunks are not read again.
"""

import concurrent.futures
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from auxseg_jax.data import content, features, masks
from auxseg_jax.data.listing import Listing, Objects, Photo, file_state
from auxseg_jax.data.planes import PLANES, Plane
from auxseg_jax.errors import UserError, collect, fault
from auxseg_jax.files import images, storage
from auxseg_jax.files.terminal import progress
from auxseg_jax.pixel_labels import IGNORE

_CHUNK = 64
_LEAST_CHUNKS_FOR_PROCESSES = 4  # Fewer are read in the time that a process takes to start.
_MASK, _IMAGE = "mask", "image"


class ProcessDied(UserError):
    """A process of `parallel` ended without a result."""


class CheckedPhoto(NamedTuple):
    """What a build needs of one photo.

    Attributes:
      photo: where its parts lie.
      size: (H, W).
      planes: {plane: PNG}, see `Plane.store`.
      mask: PNG, or None.
      image: JPEG, if the photo is scaled down; else None.
    """

    photo: Photo
    size: tuple[int, int]
    planes: dict[str, bytes]
    mask: bytes | None
    image: bytes | None


class _Seen(NamedTuple):
    """A photo as viewers show it: its (H, W), None if it is broken, and whether EXIF turns it."""

    size: tuple[int, int] | None
    is_turned: bool


class _Chunk(NamedTuple):
    photos: Sequence[Photo]
    num_labels: int
    megapixels: float
    path: epath.Path


def check(listing: Listing, work: epath.PathLike) -> None:
    """Reads every picture of a listing and leaves what a build needs under `work`; reports faults.

    Chunks that are there already are not read again.

    Raises:
      ProcessDied: a picture killed the process that decoded it; the message names the chunk.
    """
    chunks = [chunk for split in listing.photos for chunk in _chunks(listing, split, work)]
    left = [chunk for chunk in chunks if not chunk.path.exists()]
    total, start = _count(chunks), _count(chunks) - _count(left)
    workers = 1 if len(left) < _LEAST_CHUNKS_FOR_PROCESSES else None
    with progress(f"reading {listing.root}", total, unit="photo", start=start) as bar:
        done = 0
        try:
            for chunk, faults in zip(left, parallel(_check_chunk, left, workers), strict=True):
                for message in faults:
                    fault(message)
                done += 1
                bar.advance(len(chunk.photos))
        except ProcessDied as error:
            last = min(done + len(os.sched_getaffinity(0)), len(left)) - 1
            names = f"{left[done].photos[0].name} to {left[last].photos[-1].name}"
            raise ProcessDied(
                f"{error}. It was at one of the photos {names} of {listing.root}"
            ) from error


def judge(listing: Listing, work: epath.PathLike) -> list[str]:
    """Judges the content of pictures that `check` has found to be readable, see `content.judge`."""
    remarks = []
    for split, photos in listing.photos.items():
        noted = map(_read_facts, _chunks(listing, split, work))
        facts = content.Facts(*map(np.concatenate, zip(*noted, strict=True)))
        names, labels = [photo.name for photo in photos], [photo.labels for photo in photos]
        remarks += content.judge(split, names, np.stack(labels), facts, listing.classes)
    return remarks


def _read_facts(chunk: _Chunk) -> list[np.ndarray]:
    with storage.open_npz(chunk.path) as stored:
        return [stored[key] for key in content.Facts._fields]


def read(listing: Listing, split: str, work: epath.PathLike) -> Iterator[CheckedPhoto]:
    """Reads what `check` left of every photo of a split."""
    for chunk in _chunks(listing, split, work):
        with storage.open_npz(chunk.path) as kept:
            for number, photo in enumerate(chunk.photos):
                stored = {
                    key: kept[f"{key}{number}"].tobytes()
                    for key in (*PLANES, _MASK, _IMAGE)
                    if f"{key}{number}" in kept
                }
                mask, image = stored.pop(_MASK, None), stored.pop(_IMAGE, None)
                size = tuple(kept[f"size{number}"].tolist())
                yield CheckedPhoto(photo, size, stored, mask, image)


def parallel(
    function: Callable, jobs: Sequence[tuple], workers: int | None = None
) -> Iterator[Any]:
    """Yields function(*job) of each job in order, worked out by processes.

    Args:
      function: importable by name.
      jobs: the arguments of each call.
      workers: number of processes; None: one a core. A single job, or a single worker, is done by
        this process.

    Raises:
      ProcessDied: a process ended without a result.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    if workers < 2:
        yield from (function(*job) for job in jobs)
        return
    # A fork would copy the locks of threads of JAX and Grain that may be at work.
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor
    with executor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(function, *zip(*jobs, strict=True))
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ProcessDied(
                "a process died while it read pictures: "
                "memory ran out, or a broken file killed its decoder"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent.

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _count(chunks: Sequence[_Chunk]) -> int:
    return sum(len(chunk.photos) for chunk in chunks)


def _chunks(listing: Listing, split: str, work: epath.PathLike) -> Iterator[_Chunk]:
    photos, num_labels = listing.photos[split], len(listing.classes)
    for start in range(0, len(photos), _CHUNK):
        part = photos[start : start + _CHUNK]
        state = _hash(part, f"{num_labels} {listing.megapixels} {content.Facts._fields}")
        path = epath.Path(work) / f"{split}.{state}.npz"
        yield _Chunk(part, num_labels, listing.megapixels, path)


def _hash(photos: Sequence[Photo], options: str) -> str:
    state = hashlib.sha256(options.encode())
    for photo in photos:
        state.update(repr((photo.name, photo.mask)).encode())
        for path in photo.files:
            if path.exists():
                state.update(file_state(path))
    return state.hexdigest()[:16]


def _check_chunk(
    photos: Sequence[Photo], num_labels: int, megapixels: float, path: epath.Path
) -> list[str]:
    """Writes a chunk if it has no fault; returns its faults, for it runs in another process."""
    stored: dict[str, np.ndarray] = {}
    noted: list[content.Facts] = []
    with collect() as faults:
        for number, photo in enumerate(photos):
            size, encoded, facts = _check_photo(photo, num_labels, megapixels)
            noted.append(facts)
            if size:
                stored[f"size{number}"] = np.array(size, np.int32)
            for key, data in encoded.items():
                stored[f"{key}{number}"] = np.frombuffer(data, np.uint8)
    if not faults:
        facts = map(np.stack, zip(*noted, strict=True))
        storage.write_npz(path, stored | dict(zip(content.Facts._fields, facts, strict=True)))
    return faults


def _check_photo(
    photo: Photo, num_labels: int, megapixels: float
) -> tuple[tuple[int, int] | None, dict[str, bytes], content.Facts]:
    """Checks a photo.

    Returns:
      The (H, W) that it is stored with, None if it is broken; its planes and mask as PNGs, and the
      photo, if it is scaled down; and what was noted of it.
    """
    size, encoded, image, planes, mask = None, {}, b"", {}, None
    try:
        image = photo.image.read_bytes()
        size = features.check_image(image)
    except (OSError, ValueError) as error:
        fault(f"{_where(photo, photo.image)} cannot be read: {error}")
    seen = _Seen(size, content.orientation(image) > 4)
    for name, paths in photo.planes.items():
        plane = PLANES[name]
        arrays = [_read_plane(photo, plane, path, seen) for path in paths]
        is_whole = all(array is not None for array in arrays)
        if is_whole and len({array.shape for array in arrays}) == 1:
            planes[name] = plane.merge(arrays)
    if photo.mask is not None:
        mask = _read_mask(photo, num_labels, seen)
    facts = content.facts(image, size, planes, mask, num_labels)
    if size and (smaller := features.size_within(size, megapixels)) != size:
        encoded[_IMAGE] = features.scale_image(image, smaller)
        planes = {name: PLANES[name].shrink(array, smaller) for name, array in planes.items()}
        mask = None if mask is None else PLANES["segmentation"].shrink(mask, smaller)
        size = smaller
    encoded |= {name: PLANES[name].store(array) for name, array in planes.items()}
    if mask is not None:
        encoded[_MASK] = images.encode_png(mask)
    return size, encoded, facts


def _read_plane(photo: Photo, plane: Plane, path: epath.Path, seen: _Seen) -> np.ndarray | None:
    try:
        array = plane.decode_file(path.read_bytes())
    except (OSError, ValueError) as error:
        fault(f"{_where(photo, path)} cannot be read: {error}")
        return None
    _check_size(_where(photo, path), array.shape[-2:], seen)
    return array


def _read_mask(photo: Photo, num_labels: int, seen: _Seen) -> np.ndarray | None:
    where, size = _where(photo, photo.mask), seen.size
    if isinstance(photo.mask, Objects) and size not in (None, photo.mask.size):
        # They are not painted, because a size in a file may be anything.
        height, width = photo.mask.size
        fault(f"{where} are of {width}x{height}, the photo is {size[1]}x{size[0]}")
        return None
    try:
        mask = masks.read(photo.mask, num_labels)
    except (OSError, ValueError) as error:
        fault(f"{where} cannot be read: {error}")
        return None
    _check_size(where, mask.shape, seen)
    unknown = np.setdiff1d(mask, [*range(num_labels), IGNORE])
    if unknown.size:
        indices = unknown[:5].tolist()
        fault(f"{where} holds class indices {indices}; the last class is {num_labels - 1}")
    return mask


def _check_size(where: str, shape: tuple[int, ...], seen: _Seen) -> None:
    size = seen.size
    if size is not None and shape != size:
        hint = ""
        if seen.is_turned and shape == size[::-1]:
            hint = " once its EXIF tag turns it; make the map from the turned photo"
        fault(f"{where} is {shape[1]}x{shape[0]}, the photo {size[1]}x{size[0]}{hint}")


def _where(photo: Photo, source: Any) -> str:
    if isinstance(source, epath.Path):
        return f"{photo.name}: {source.parent.name}/{source.name}"
    return f"{photo.name}: its objects"
