"""The pictures of a listing: every one is decoded and checked before anything is built, by all cores, and not twice.

The work is kept in chunks of 64 photos, <work>/<split>.<hash of the photos>.npz, written whole: after a kill, or when a broken picture has
been mended, the other chunks are not read again.
"""

import concurrent.futures
import hashlib
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from auxseg_jax import files
from auxseg_jax.data import features, masks
from auxseg_jax.data.listing import Listing, Objects, Photo, file_state
from auxseg_jax.terminal import progress

_CHUNK = 64
_WORTH_PROCESSES = 4  # chunks; fewer are read in the time that a process takes to start


class ProcessDied(ValueError):
    """A process of `parallel` ended without a result."""


def check(listing: Listing, work: epath.PathLike) -> list[str]:
    """Reads every picture of a listing and leaves what a build needs under `work`; returns every fault found.

    Chunks that are there already are not read again.
    """
    jobs = [(photos, len(listing.classes), path) for split in listing.photos for photos, path in _chunks(listing, split, epath.Path(work))]
    left = [job for job in jobs if not job[-1].exists()]
    faults: list[str] = []
    with progress(f"reading {listing.root}", sum(len(job[0]) for job in jobs), unit="photo", start=_count(jobs) - _count(left)) as bar:
        workers = 1 if len(left) < _WORTH_PROCESSES else None
        done = 0
        try:
            for job, found in zip(left, parallel(_check_chunk, left, workers), strict=True):
                faults += found
                done += 1
                bar.advance(len(job[0]))
        except ProcessDied as error:
            first, last = left[done][0][0], left[min(done + len(os.sched_getaffinity(0)), len(left)) - 1][0][-1]
            raise ProcessDied(f"{error}. It was at one of the photos {first.name} to {last.name} of {listing.root}") from error
    return faults


def read(listing: Listing, split: str, work: epath.PathLike) -> Iterator[tuple[Photo, dict[str, Any]]]:
    """(photo, {"size": (H, W), "saliency": PNG, "mask": PNG}) of every photo of a split, from what `check` left; the PNGs where there are any."""
    for photos, path in _chunks(listing, split, epath.Path(work)):
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            for number, photo in enumerate(photos):
                planes = {key: kept[f"{key}{number}"].tobytes() for key in ("saliency", "mask") if f"{key}{number}" in kept}
                yield photo, {"size": tuple(kept[f"size{number}"].tolist()), **planes}


def parallel(function: Callable, jobs: Sequence[tuple], workers: int | None = None) -> Iterator[Any]:
    """function(*job) of each job in order, by processes; a single job, or with one worker, by this one."""
    workers = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    if workers < 2:
        yield from (function(*job) for job in jobs)
        return
    # not forked: threads of JAX and Grain may be at work
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(function, *zip(*jobs, strict=True))
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ProcessDied("a process died while it read pictures: memory ran out, or a broken file killed its decoder") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()  # a parent that was killed takes its workers along


def _count(jobs: Sequence[tuple]) -> int:
    return sum(len(photos) for photos, *_ in jobs)


def _chunks(listing: Listing, split: str, work: epath.Path) -> Iterator[tuple[Sequence[Photo], epath.Path]]:
    photos = listing.photos[split]
    for start in range(0, len(photos), _CHUNK):
        chunk = photos[start : start + _CHUNK]
        yield chunk, work / f"{split}.{_hash(chunk, len(listing.classes))}.npz"


def _hash(photos: Sequence[Photo], num_labels: int) -> str:
    state = hashlib.sha256(f"{num_labels}".encode())
    for photo in photos:
        state.update(repr((photo.name, photo.mask)).encode())
        for path in photo.files:
            if path.exists():
                state.update(file_state(path))
    return state.hexdigest()[:16]


def _check_chunk(photos: Sequence[Photo], num_labels: int, path: epath.Path) -> list[str]:
    kept: dict[str, np.ndarray] = {}
    faults: list[str] = []
    for number, photo in enumerate(photos):
        size, planes = _check_photo(photo, num_labels, faults)
        if size:
            kept[f"size{number}"] = np.array(size, np.int32)
        for key, plane in planes.items():
            kept[f"{key}{number}"] = np.frombuffer(features.encode_png(plane), np.uint8)
    if not faults:
        buffer = io.BytesIO()
        np.savez(buffer, **kept)
        files.write_bytes(path, buffer.getvalue())
    return faults


def _check_photo(photo: Photo, num_labels: int, faults: list[str]) -> tuple[tuple[int, int] | None, dict[str, np.ndarray]]:
    """Size, and the planes "saliency" and "mask" as far as there are any; what is wrong is added to `faults`."""
    size, planes = None, {}
    try:
        size = features.check_image(photo.image.read_bytes())
    except (OSError, ValueError) as error:
        faults.append(f"{_where(photo, photo.image)} cannot be read: {error}")
    maps = [_plane(photo, path, lambda p: files.decode_plane(p.read_bytes(), grey=True), size, faults) for path in photo.saliency]
    if maps and all(plane is not None for plane in maps) and len({plane.shape for plane in maps}) == 1:
        planes["saliency"] = maps[0] if len(maps) == 1 else np.round(np.mean(maps, 0)).astype(np.uint8)
    if isinstance(photo.mask, Objects) and size not in (None, photo.mask.size):  # said before it is painted: sizes may be anything
        faults.append(f"{_where(photo, photo.mask)} are of {photo.mask.size[1]}x{photo.mask.size[0]}, the photo is {size[1]}x{size[0]}")
    elif photo.mask is not None and (plane := _plane(photo, photo.mask, masks.read, size, faults)) is not None:
        strange = np.setdiff1d(plane, [*range(num_labels), files.IGNORE])
        if strange.size:
            faults.append(f"{_where(photo, photo.mask)} holds class indices {strange[:5].tolist()}; the last class is {num_labels - 1}")
        planes["mask"] = plane
    return size, planes


def _plane(photo: Photo, source: Any, read_plane: Callable, size: tuple[int, int] | None, faults: list[str]) -> np.ndarray | None:
    try:
        plane = read_plane(source)
    except (OSError, ValueError) as error:
        faults.append(f"{_where(photo, source)} cannot be read: {error}")
        return None
    if size is not None and plane.shape != size:
        faults.append(f"{_where(photo, source)} is {plane.shape[1]}x{plane.shape[0]}, the photo {size[1]}x{size[0]}")
    return plane


def _where(photo: Photo, source: Any) -> str:
    return f"{photo.name}: {source.parent.name}/{source.name}" if isinstance(source, epath.Path) else f"{photo.name}: its objects"
