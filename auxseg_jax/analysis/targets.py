"""Devices that nobody here holds: how they are named, and the peaks of a chip."""

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from auxseg_jax.analysis.gpus import GPUS
from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import first_line

SOURCE = (
    "TPU: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}; GPU: NVIDIA's data sheets, dense; 2026-11"
)
GPU_MEMORY_SHARE = 0.75
"""What JAX takes of a GPU's memory, by default."""

# libtpu asks for a machine that is not there, and locks itself against a second process, unless
# told otherwise.
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Peaks of a chip.

    Attributes:
      flops: FLOP/s of a product, by the type of its operands and its precision (see
        `products.Product`).
      memory_rate: bytes/s of memory.
      message_rate: bytes/s sent to other chips.
      memory_bytes: memory that a program may have.
    """

    flops: dict[tuple[str, str], float]
    memory_rate: float
    message_rate: float
    memory_bytes: int


def _tpu(bfloat16: float, memory_rate: float, message_rate: float, memory_gib: int) -> Peaks:
    """Returns the peaks of a TPU: float32 takes three or six passes of bfloat16."""
    passes = {("f32", "high"): 3, ("f32", "highest"): 6}
    kinds = [(dtype, p) for dtype in ("bf16", "f32") for p in ("default", "high", "highest")]
    flops = {kind: bfloat16 / passes.get(kind, 1) for kind in kinds}
    return Peaks(flops, memory_rate, message_rate, memory_gib * 2**30)


def _gpu(name: str) -> Peaks:
    gpu = GPUS[name]
    flops = dict.fromkeys([("bf16", p) for p in ("default", "high", "highest")], gpu.bfloat16)
    flops |= dict.fromkeys([("f32", "default"), ("f32", "high")], gpu.tensorfloat32)
    flops["f32", "highest"] = gpu.float32
    memory = int(GPU_MEMORY_SHARE * gpu.memory_bytes)
    return Peaks(flops, gpu.memory_rate, gpu.message_rate, memory)


PEAKS = {
    "v5e": _tpu(197e12, 819e9, 200e9, memory_gib=16),
    "v5p": _tpu(459e12, 2765e9, 600e9, memory_gib=95),
    "v6e": _tpu(918e12, 1600e9, 400e9, memory_gib=32),
    **{name: _gpu(name) for name in GPUS},
}


def find_devices(topology: str) -> tuple[list[jax.Device], str]:
    """Returns the devices of a topology, and their kind.

    Args:
      topology: "v5e:4x4" and the like of libtpu, with "*2" behind it for two such slices; "h100:8"
        for 8 GPUs of one machine, "h100:2x8" for two such machines; or "cpu:8".

    Raises:
      UserError: there is no such topology, or what compiles for it is not installed.
    """
    kind, _, shape = topology.partition(":")
    if kind == "cpu":
        return _find_cpus(topology, shape), kind
    if kind not in PEAKS:
        known = ", ".join(PEAKS)
        raise UserError(
            f"--topology={topology!r}: it is one of {known} or cpu, a colon and a shape, "
            "as in v5e:4x4 or h100:8"
        )
    jax.config.update("jax_platforms", "cpu")
    return (_find_gpus if kind in GPUS else _find_tpus)(topology), kind


def _find_tpus(topology: str) -> list[jax.Device]:
    shape, _, slices = topology.partition("*")
    for name, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        description = topologies.get_topology_desc(
            shape, platform="tpu", num_slices=int(slices or 1)
        )
    except Exception as error:  # The plugin's errors have no common class.
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("compiling for a TPU needs libtpu: pip install libtpu") from error
        reason = first_line(error)
        raise UserError(f"libtpu does not know --topology={topology!r}: {reason}") from error
    return list(description.devices)


def _find_gpus(topology: str) -> list[jax.Device]:
    kind, _, shape = topology.partition(":")
    if not re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", shape):
        raise UserError(
            f"--topology={topology!r}: {kind}:N takes the number of GPUs of a machine, {kind}:MxN "
            "also that of machines"
        )
    machines, _, count = shape.rpartition("x")
    if (plugin := cuda_plugin()) is None:
        raise UserError(
            "compiling for a GPU needs JAX's CUDA plugin: pip install --no-deps --target DIR "
            f"{' '.join(_wheels())}, and PYTHONPATH=DIR (docs/accelerators.md)"
        )
    try:
        description = topologies.get_topology_desc(
            "",
            platform="cuda",
            topology=f"1x{machines or 1}x{count}",
            target_config=GPUS[kind].to_target(),
        )
    except Exception as error:  # The plugin's errors have no common class.
        reason = first_line(error)
        raise UserError(f"{plugin} cannot compile for {topology}: {reason}") from error
    return list(description.devices)


def cuda_plugin() -> str | None:
    """Returns the name of the CUDA plugin of JAX that is installed, or None."""
    names = [f"jax_cuda{version}_plugin" for version in (13, 12)]
    return next((name for name in names if importlib.util.find_spec(name)), None)


def _wheels() -> list[str]:
    """Returns what compiling for a GPU needs; the libraries of CUDA are not among it."""
    return [f"jax-cuda13-{part}=={jax.__version__}" for part in ("plugin", "pjrt")]


def _find_cpus(topology: str, count: str) -> list[jax.Device]:
    if not count.isdecimal() or not int(count):
        raise UserError(f"--topology={topology!r}: cpu:N takes the number of devices")
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", int(count))
    except RuntimeError:  # The devices are made already; those that are too many are left out.
        pass
    devices = jax.devices("cpu")
    if len(devices) < int(count):
        raise UserError(f"--topology={topology!r}: there are {len(devices)} devices")
    return devices[: int(count)]
