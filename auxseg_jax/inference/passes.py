"""One pass over whole photos: read in buckets, run a function, hand on each photo's result."""

import concurrent.futures
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from auxseg_jax.arrays import Array
from auxseg_jax.data.loader import PhotoBatch, PhotoReader
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files.terminal import progress, say

_BYTES_IN_FLIGHT = 2**30  # Of results that are not written yet.

Pending = dict[concurrent.futures.Future, int]
"""{write that is under way: bytes that it holds}."""

Write = Callable[[str, dict[str, np.ndarray]], None]
"""Called in threads with a photo's id and its arrays."""


class PhotoFunction:
    """A jitted function(params, batch) that sees each photo by itself, for `run`.

    Every device of `mesh` does its own photos. It is compiled ahead, for all sizes of photos at
    once.

    Args:
      function: what is jitted.
      mesh: this host's own devices.
    """

    def __init__(self, function: Callable, mesh: Mesh):
        self._jitted = compilation.jit(
            mesh_lib.by_photo(function, mesh), mesh_lib.platform_of(mesh)
        )
        self._mesh = mesh
        self._programs: dict[tuple, Callable] = {}

    def trace(self, params: dict, batch: dict) -> jax.stages.Traced:
        """Traces it for parameters and a batch, arrays or shapes."""
        return self._jitted.trace(params, batch)

    def new_shapes(self, batches: Sequence[dict[str, np.ndarray]]) -> int:
        """Returns for how many shapes of these batches it is not compiled yet."""
        return len({_shapes(batch) for batch in batches} - self._programs.keys())

    def compile_for(self, params: dict, batches: Sequence[dict[str, np.ndarray]]) -> None:
        """Compiles it for batches of these shapes, side by side.

        Compilers use little more than one core, and the sizes of a data set are a few.
        """
        sharding = mesh_lib.batch_sharding(self._mesh)
        new = {_shapes(batch): batch for batch in batches}
        new = {key: batch for key, batch in new.items() if key not in self._programs}
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            pending = {}
            for key, batch in new.items():
                shapes = {
                    name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
                    for name, array in batch.items()
                }
                pending[key] = pool.submit(self._jitted.lower(params, shapes).compile)
            for key, program in pending.items():
                self._programs[key] = program.result()

    def __call__(self, params: dict, batch: dict[str, np.ndarray]) -> dict[str, Array]:
        """Runs it on a batch of this host, for whose shapes it is compiled."""
        return self._programs[_shapes(batch)](params, mesh_lib.put_batch(batch, self._mesh))


def _shapes(batch: dict[str, np.ndarray]) -> tuple:
    return tuple(sorted((name, array.shape) for name, array in batch.items()))


def run(
    name: str,
    function: PhotoFunction,
    params: dict,
    reader: PhotoReader,
    write: Write,
    mesh: Mesh,
) -> None:
    """Calls write(id, {key: array}) for every photo of `reader`, in threads.

    The arrays are the photo's rows of function(params, batch).

    Args:
      name: name on the progress bar.
      function: it takes the arrays of a batch of whole photos (see `data.loader`)
        and returns arrays [B, ...]; those of the batch's [B, H, W] are cut to the photo's own size.
      params: parameters of the network.
      reader: the photos.
      write: its first exception ends the pass and is raised.
      mesh: that of `function`. With several hosts it is this one's own devices (`local_mesh`), and
        `reader` its share of the photos.
    """
    params = mesh_lib.to_local(params, mesh)
    batches = reader.blank_batches()
    if new := function.new_shapes(batches):
        started = time.monotonic()
        say(f"{name}: compiling for {new} shape(s) of batches")
        function.compile_for(params, batches)
        say(f"{name}: compiled in {time.monotonic() - started:.0f} s")
    with (
        progress(name, reader.num_photos, unit="photo") as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        pending: Pending = {}
        previous: tuple[PhotoBatch, Any] | None = None
        for batch in reader:
            # The call returns at once, and the results of the last batch are written meanwhile.
            outputs = function(params, batch.arrays)
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
