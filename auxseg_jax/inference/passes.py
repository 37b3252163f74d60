"""One pass over whole photos: read in buckets, run a function, hand on each photo's result."""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from auxseg_jax.arrays import Array
from auxseg_jax.data.loader import PhotoBatch, PhotoReader
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files.terminal import progress

_BYTES_IN_FLIGHT = 2**30  # Of results that are not written yet.

Pending = dict[concurrent.futures.Future, int]
"""{write that is under way: bytes that it holds}."""

Write = Callable[[str, dict[str, np.ndarray]], None]
"""Called in threads with a photo's id and its arrays."""


def jit(function: Callable, mesh: Mesh) -> Callable:
    """Compiles function(params, batch), which sees each photo by itself, for `run`.

    Every device of `mesh` does its own photos.
    """
    return compilation.jit(mesh_lib.by_photo(function, mesh), mesh_lib.platform_of(mesh))


def run(
    name: str,
    function: Callable[[dict, dict], dict[str, Array]],
    params: dict,
    reader: PhotoReader,
    write: Write,
    mesh: Mesh,
) -> None:
    """Calls write(id, {key: array}) for every photo of `reader`, in threads.

    The arrays are the photo's rows of function(params, batch).

    Args:
      name: name on the progress bar.
      function: made by `jit`, and compiled for each bucket. It takes the arrays of a batch of whole
        photos (see `data.loader`) and returns arrays [B, ...]; those of the batch's [B, H, W] are
        cut to the photo's own size.
      params: parameters of the network.
      reader: the photos.
      write: its first exception ends the pass and is raised.
      mesh: that of `jit`. With several hosts it is this one's own devices (`local_mesh`), and
        `reader` its share of the photos.
    """
    params = mesh_lib.to_local(params, mesh)
    with (
        progress(name, reader.num_photos, unit="photo") as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        pending: Pending = {}
        previous: tuple[PhotoBatch, Any] | None = None
        for batch in reader:
            # The call returns at once, and the results of the last batch are written meanwhile.
            outputs = function(params, mesh_lib.put_batch(batch.arrays, mesh))
            if previous is not None:
                pending = _submit(pool, pending, write, *previous)
                bar.advance(len(previous[0].ids))
            previous = batch, outputs
        if previous is not None:
            pending = _submit(pool, pending, write, *previous)
            bar.advance(len(previous[0].ids))
        for future in pending:
            future.result()


def _submit(
    pool: concurrent.futures.Executor,
    pending: Pending,
    write: Write,
    batch: PhotoBatch,
    outputs: dict[str, Array],
) -> Pending:
    """Submits the results of a batch; returns the writes that are not done."""
    arrays = jax.device_get(outputs)
    bucket = batch.arrays["inside"].shape
    for row, (name, (height, width)) in enumerate(zip(batch.ids, batch.sizes, strict=True)):
        photo = {
            key: array[row, :height, :width] if array.shape[:3] == bucket else array[row]
            for key, array in arrays.items()
        }
        size = sum(array.nbytes for array in photo.values())
        pending[pool.submit(write, name, photo)] = size
    for future in [future for future in pending if future.done()]:
        future.result()
        del pending[future]
    if sum(pending.values()) > _BYTES_IN_FLIGHT:
        concurrent.futures.wait(pending)
    return pending
