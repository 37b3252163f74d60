"""Device mesh and placement. The only module that names mesh axes: models and losses know none.

Axes of the mesh:

  data, fsdp   share the photos of a batch; `fsdp` also shares parameters, momentum and gradients
  model        shares the query rows of the N x N affinities, which models name by logical axes

A pass over whole photos needs none of that. It sees every photo alone, so each host works on its
own devices (`local_mesh`).
"""

import contextlib
import re
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from auxseg_jax.errors import UserError

DATA, FSDP, MODEL = AXES = ("data", "fsdp", "model")
_BATCH = (DATA, FSDP)
_LOGICAL = (("photos", _BATCH), ("queries", MODEL))

# (pattern of a parameter's name, dimensions that may be split over `fsdp`, best first). The first
# dimension that the axis divides is split. Parameters that no pattern names stay whole.
_RULES = ((r".*/kernel", (-1, -2)),)
_LEAST_SPLIT_SIZE = 2**14  # Gathering a parameter costs a message; smaller ones stay whole.


def make_mesh(*, data: int = -1, fsdp: int = 1, model: int = 1) -> Mesh:
    """Makes a mesh of data x fsdp x model devices of all hosts.

    Args:
      data: number of devices along the axis, or -1 for all that are left.
      fsdp: likewise, without -1.
      model: likewise, without -1.

    Raises:
      UserError: the devices do not suffice, or are not divided.
    """
    devices = jax.devices()
    if min(fsdp, model) < 1 or (data < 1 and data != -1):
        raise UserError(
            f"mesh: data={data}, fsdp={fsdp}, model={model} must be above 0, or data -1"
        )
    if data == -1 and len(devices) % (fsdp * model):
        raise UserError(
            f"mesh: fsdp={fsdp} x model={model} does not divide the {len(devices)} devices; "
            "mesh.data=N leaves some out"
        )
    rows = len(devices) // (fsdp * model) if data == -1 else data
    size = rows * fsdp * model
    if not 0 < size <= len(devices):
        raise UserError(
            f"mesh: data={data}, fsdp={fsdp}, model={model} ask for {max(size, fsdp * model)} "
            f"devices, {len(devices)} are visible"
        )
    if size < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"mesh: {size} of {len(devices)} devices; with several hosts all of them take part"
        )
    return mesh_of(devices[:size], rows, fsdp, model)


def mesh_of(devices: Sequence[jax.Device], data: int, fsdp: int, model: int) -> Mesh:
    """Makes a mesh of these devices.

    The slices of a multislice system lie along `data`, whose messages are the rarest.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        axis_types = (AxisType.Auto,) * 3
        return jax.make_mesh((data, fsdp, model), AXES, devices=devices, axis_types=axis_types)
    if data % slices:
        raise UserError(f"mesh.data={data} is not a multiple of the {slices} slices")
    inner, outer = (data // slices, fsdp, model), (slices, 1, 1)
    grid = mesh_utils.create_hybrid_device_mesh(inner, outer, devices=devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def platform_of(mesh: Mesh) -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def local_mesh(mesh: Mesh) -> Mesh:
    """Returns this host's devices of `mesh`, in a row."""
    return host_mesh(mesh, jax.process_index())


def host_mesh(mesh: Mesh, process: int) -> Mesh:
    """Returns one host's devices of `mesh`, in a row."""
    devices = [device for device in mesh.devices.flat if device.process_index == process]
    return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis is split, but not over `model`."""
    names = tuple(name for name in mesh.axis_names if name in _BATCH)
    return NamedSharding(mesh, PartitionSpec(names))


def tree_sharding(tree: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every leaf (array or shape) of a tree of parameters.

    The tree may hold parameters under further names, as a `TrainState` does.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    parts = mesh.shape[FSDP]
    if parts == 1 or np.prod(shape) < _LEAST_SPLIT_SIZE:
        return PartitionSpec()
    rules = (dimensions for pattern, dimensions in _RULES if re.fullmatch(pattern, name))
    for dimension in next(rules, ()):
        if shape[dimension] % parts == 0:
            return PartitionSpec(*[None] * (dimension % len(shape)), FSDP)
    return PartitionSpec()


def lay_out(tree: Any, mesh: Mesh) -> Any:
    """Splits a tree as `tree_sharding` says, within a jitted function."""
    return jax.lax.with_sharding_constraint(tree, tree_sharding(tree, mesh))


def gather(tree: Any, mesh: Mesh) -> Any:
    """Makes a tree whole on every device, within a jitted function; its gradient is summed.

    Left to itself XLA would split the convolutions by channel, as their kernels are.
    """
    whole = jax.tree.map(lambda _: replicated(mesh), tree)
    return jax.lax.with_sharding_constraint(tree, whole)


@contextlib.contextmanager
def logical_axes(mesh: Mesh) -> Iterator[None]:
    """Binds the logical axes that models name to `mesh`, within a jitted function.

    Elsewhere they mean nothing.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(_LOGICAL):
        yield


def split_batch(batch: Any, parts: int, mesh: Mesh) -> Any:
    """Turns [B, ...] into [parts, B / parts, ...] within a jitted function.

    Every device splits its own photos, so none moves.
    """
    spec = PartitionSpec(None, *batch_sharding(mesh).spec)

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(split, batch)


def by_photo(function: Callable, mesh: Mesh) -> Callable:
    """Makes every device do its own photos in function(params, batch), which sees each alone."""
    split = batch_sharding(mesh).spec
    # With check_vma, loops inside would have to mark what varies over the mesh, of which models and
    # CRF know nothing.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
        check_vma=False,
    )


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises UserError unless every device gets as many photos, in each of `parts` parts."""
    shares = _batch_shares(mesh) * parts
    if batch_size % shares:
        raise UserError(
            f"the batch size {batch_size} is not a multiple of {shares}, "
            f"the devices that share it{' times `accumulate`' * (parts > 1)}"
        )


def _batch_shares(mesh: Mesh) -> int:
    """Returns how many ways a batch is split."""
    return int(np.prod([mesh.shape[name] for name in mesh.axis_names if name in _BATCH]))


def memory_of(device: jax.Device) -> int | None:
    """Returns the bytes that JAX may use of a device; None on a CPU, which does not say."""
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_memory() -> dict[str, int]:
    """Returns the MiB that this process used at most so far.

    "host": resident memory. "device": of its first device, which a CPU does not say.
    """
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found if peak is None else found | {"device": peak // 2**20}


def rows_of_host(batch_size: int, mesh: Mesh) -> list[int]:
    """Returns the rows of a batch over all hosts that this host's devices hold, ascending."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (part,) in indices for row in range(*part.indices(batch_size))})


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this host's rows of a batch as arrays that are split over the mesh.

    Args:
      batch: tree of numpy arrays whose leading axis is that of `rows_of_host`.
      mesh: where they go.
    """
    sharding = batch_sharding(mesh)
    host_rows = len(next(iter(jax.tree.leaves(batch))))
    shares = _batch_shares(mesh)
    local_shares = len(rows_of_host(shares, mesh))
    size = host_rows // local_shares * shares
    position = {row: k for k, row in enumerate(rows_of_host(size, mesh))}

    def place(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first, last, _ = index[0].indices(size)
            return x[position[first] : position[first] + last - first]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)


def to_local(tree: Any, mesh: Mesh) -> Any:
    """Makes arrays of any mesh whole on each device of a `local_mesh`."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    split = [leaf for leaf in leaves if not leaf.is_fully_replicated]
    if split:
        (whole,) = {replicated(leaf.sharding.mesh) for leaf in split}
        tree = jax.jit(lambda x: x, out_shardings=whole)(tree)

    def place(x: Any) -> jax.Array:
        local = x.addressable_data(0) if isinstance(x, jax.Array) else x
        return jax.device_put(local, replicated(mesh))

    return jax.tree.map(place, tree)
