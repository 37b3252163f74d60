"""One pass over whole photos: read in buckets, run a jitted function, write each photo's result by threads."""

import concurrent.futures
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from auxseg_jax import platform, sharding
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.terminal import progress

_WRITES_IN_FLIGHT = 256


def jit(function: Callable, mesh: Mesh) -> Callable:
    """What `run` calls: `function`, every device of `mesh` doing its own photos. It sees each photo by itself."""
    return platform.jit(sharding.by_photo(function, mesh), sharding.platform_of(mesh))


def run(
    name: str,
    function: Callable[[dict, dict], dict[str, jax.Array]],
    params: dict,
    reader: PhotoReader,
    write: Callable[[str, dict[str, np.ndarray]], None],
    mesh: Mesh,
) -> None:
    """Calls write(id, {key: array}) for every photo of `reader`, in threads, with the photo's row of `function(params, batch)`.

    Args:
      name: on the progress bar.
      function: made by `jit`, and compiled for each bucket: (params, batch arrays on the device, see `data.loader`) -> dict of arrays
        [B, ...]; those of the batch's [B, H, W] are cut to the photo's own size.
      params: of the network.
      reader: the photos.
      write: runs in threads; its first exception ends the pass and is raised.
      mesh: that of `jit`; with several hosts this one's own devices (`sharding.local_mesh`), and `reader` its share of the photos.
    """
    params = sharding.to_local(params, mesh)
    with progress(name, reader.num_photos, unit="photo") as bar, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        pending: set[concurrent.futures.Future] = set()
        previous = None
        for batch in reader:
            outputs = function(params, sharding.put_batch(batch.arrays, mesh))  # returns at once; the last batch is written meanwhile
            if previous is not None:
                pending = _write(pool, pending, write, *previous)
                bar.advance(len(previous[0].ids))
            previous = batch, outputs
        if previous is not None:
            pending = _write(pool, pending, write, *previous)
            bar.advance(len(previous[0].ids))
        for future in pending:
            future.result()


def _write(pool, pending, write, batch, outputs):
    outputs = jax.device_get(outputs)
    plane = batch.arrays["inside"].shape
    for row, (name, (height, width)) in enumerate(zip(batch.ids, batch.sizes, strict=True)):
        cut = {k: v[row, :height, :width] if v.shape[:3] == plane else v[row] for k, v in outputs.items()}
        pending.add(pool.submit(write, name, cut))
    done = {future for future in pending if future.done()}
    for future in done:
        future.result()
    pending -= done
    if len(pending) > _WRITES_IN_FLIGHT:
        concurrent.futures.wait(pending)
    return pending
