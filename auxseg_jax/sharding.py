"""Device mesh and placement. The only module that names mesh axes: models, losses and steps know nothing of them.

Today the mesh has one axis, `data`: batches are split over it, everything else is replicated.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(*, data: int = -1) -> Mesh:
    """Mesh of `data` devices; -1 takes all there are."""
    devices = jax.devices()
    size = len(devices) if data == -1 else data
    if not 0 < size <= len(devices):
        raise ValueError(f"mesh.data={data} asks for {size} devices, {len(devices)} are visible ({devices[0].platform})")
    return jax.make_mesh((size,), (DATA,), devices=devices[:size], axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def by_photo(function: Callable, mesh: Mesh) -> Callable:
    """function(params, batch) with every device doing its own photos by itself: for functions that see each photo alone."""
    split = PartitionSpec(DATA)
    # check_vma off: it would ask loops inside to mark what varies over the mesh, which models and CRF know nothing of
    return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless every device gets the same number of photos."""
    if batch_size % mesh.shape[DATA]:
        raise ValueError(f"the batch size {batch_size} is not a multiple of the {mesh.shape[DATA]} devices of the mesh")


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this host's share of a batch (numpy, leading axis = photos) as arrays sharded over the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
