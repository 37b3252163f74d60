"""Device mesh and placement. The only module that names mesh axes: models, losses and steps know nothing of them.

Axes of the mesh:

  data, fsdp   photos of a batch are split over both; parameters, momentum and all they are made of over `fsdp` alone
  model        the query rows of the N x N affinities, which models name by the logical axes of `_LOGICAL`

A pass over whole photos needs none of that: every photo is alone, so each host works on its own devices (`local_mesh`).
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA, FSDP, MODEL = AXES = ("data", "fsdp", "model")
_BATCH = (DATA, FSDP)
_LOGICAL = (("photos", _BATCH), ("queries", MODEL))

# pattern of a name -> the dimension that is split over `fsdp`, the first of these that is a multiple of it; what no pattern names is whole
_RULES = ((r".*/kernel", (-1, -2)),)
_WORTH = 2**14  # numbers; a smaller parameter is kept whole: gathering it costs a message


def make_mesh(*, data: int = -1, fsdp: int = 1, model: int = 1) -> Mesh:
    """Mesh of data x fsdp x model devices of all hosts; `data` -1 takes as many as there are."""
    devices = jax.devices()
    if min(fsdp, model) < 1 or (data < 1 and data != -1):
        raise ValueError(f"mesh: data={data}, fsdp={fsdp}, model={model} must be above 0, or data -1")
    if data == -1 and len(devices) % (fsdp * model):
        raise ValueError(f"mesh: fsdp={fsdp} x model={model} does not divide the {len(devices)} devices; mesh.data=N leaves some out")
    rows = len(devices) // (fsdp * model) if data == -1 else data
    size = rows * fsdp * model
    if not 0 < size <= len(devices):
        raise ValueError(f"mesh: data={data}, fsdp={fsdp}, model={model} ask for {max(size, fsdp * model)} devices, {len(devices)} are visible")
    if size < len(devices) and jax.process_count() > 1:
        raise ValueError(f"mesh: {size} of {len(devices)} devices; with several hosts all of them take part")
    return mesh_of(devices[:size], rows, fsdp, model)


def mesh_of(devices: Sequence[jax.Device], data: int, fsdp: int, model: int) -> Mesh:
    """Mesh of these devices; slices of a multislice system lie along `data`, whose messages are the rarest."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh((data, fsdp, model), AXES, devices=devices, axis_types=(AxisType.Auto,) * 3)
    if data % slices:
        raise ValueError(f"mesh.data={data} is not a multiple of the {slices} slices")
    grid = mesh_utils.create_hybrid_device_mesh((data // slices, fsdp, model), (slices, 1, 1), devices=devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def platform_of(mesh: Mesh) -> str:
    """ "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def local_mesh(mesh: Mesh) -> Mesh:
    """This host's devices of `mesh`, in a row."""
    mine = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return Mesh(np.array(mine), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices, but for those of `model`, which share it."""
    return NamedSharding(mesh, PartitionSpec(tuple(name for name in mesh.axis_names if name in _BATCH)))


def tree_sharding(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf (array or shape) of parameters, or of what holds arrays of their names, as a `TrainState` does."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, mesh)), tree
    )


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    parts = mesh.shape[FSDP]
    if parts == 1 or np.prod(shape) < _WORTH:
        return PartitionSpec()
    dimensions = next((dimensions for pattern, dimensions in _RULES if re.fullmatch(pattern, name)), ())
    for dimension in dimensions:
        if shape[dimension] % parts == 0:
            return PartitionSpec(*[None] * (dimension % len(shape)), FSDP)
    return PartitionSpec()


def lay_out(tree: Any, mesh: Mesh) -> Any:
    """Within a jitted function: the tree, split as `tree_sharding` says."""
    return jax.lax.with_sharding_constraint(tree, tree_sharding(tree, mesh))


def gather(tree: Any, mesh: Mesh) -> Any:
    """Within a jitted function: the tree, whole on every device; the gradient is summed over them.

    Left to itself XLA would split the convolutions by channel, as their kernels are.
    """
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: replicated(mesh), tree))


@contextlib.contextmanager
def logical_axes(mesh: Mesh) -> Iterator[None]:
    """Within a jitted function: the logical axes that models name are those of `mesh`. Elsewhere they mean nothing."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(_LOGICAL):
        yield


def split_batch(batch: Any, parts: int, mesh: Mesh) -> Any:
    """Within a jitted function: [B, ...] -> [parts, B / parts, ...]; every device splits its own photos, none moves."""
    spec = PartitionSpec(None, *batch_sharding(mesh).spec)

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(split, batch)


def by_photo(function: Callable, mesh: Mesh) -> Callable:
    """function(params, batch) with every device doing its own photos by itself: for functions that see each photo alone."""
    split = batch_sharding(mesh).spec
    # check_vma off: it would ask loops inside to mark what varies over the mesh, which models and CRF know nothing of
    return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False)


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises ValueError unless every device gets the same number of photos, in each of `parts` parts."""
    shares = int(np.prod([mesh.shape[name] for name in mesh.axis_names if name in _BATCH])) * parts
    if batch_size % shares:
        raise ValueError(f"the batch size {batch_size} is not a multiple of {shares}, the devices that share it{' times `accumulate`' * (parts > 1)}")


def rows_of_host(batch_size: int, mesh: Mesh) -> list[int]:
    """The rows of a batch over all hosts that this one's devices hold, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this host's rows of a batch (numpy, leading axis = `rows_of_host`) as arrays sharded over the mesh."""
    sharding = batch_sharding(mesh)
    hosts_rows = len(next(iter(jax.tree.leaves(batch))))
    shares = int(np.prod([mesh.shape[name] for name in mesh.axis_names if name in _BATCH]))
    mine = len(rows_of_host(shares, mesh))  # of the shares of a batch
    size = hosts_rows // mine * shares
    position = {row: k for k, row in enumerate(rows_of_host(size, mesh))}

    def place(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first, last, _ = index[0].indices(size)
            return x[position[first] : position[first] + last - first]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)


def to_local(tree: Any, mesh: Mesh) -> Any:
    """Arrays of any mesh, whole on each device of a `local_mesh`."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if not all(leaf.is_fully_replicated for leaf in leaves):
        (whole,) = {replicated(leaf.sharding.mesh) for leaf in leaves if not leaf.is_fully_replicated}
        tree = jax.jit(lambda x: x, out_shardings=whole)(tree)
    return jax.tree.map(lambda x: jax.device_put(x.addressable_data(0) if isinstance(x, jax.Array) else x, replicated(mesh)), tree)
