"""Devices that nobody here holds: how they are named, and the peaks of a chip."""

import dataclasses
import importlib.util
import os

import jax
from jax.experimental import topologies

from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import first_line

PEAKS_SOURCE = "docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}, 2026-11"
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
      flops: bfloat16 FLOP/s.
      memory_rate: bytes/s of memory.
      message_rate: bytes/s sent to other chips.
    """

    flops: float
    memory_rate: float
    message_rate: float


PEAKS = {
    "v5e": Peaks(197e12, 819e9, 200e9),
    "v5p": Peaks(459e12, 2765e9, 600e9),
    "v6e": Peaks(918e12, 1600e9, 400e9),
}


def find_devices(topology: str) -> tuple[list[jax.Device], str]:
    """Returns the devices of a topology, and their kind.

    Args:
      topology: "v5e:4x4" and the like of libtpu, with "*2" behind it for two such slices; or
        "cpu:8".

    Raises:
      UserError: there is no such topology, or libtpu is not installed.
    """
    kind, _, rest = topology.partition(":")
    if kind == "cpu":
        return _find_cpus(topology, rest), kind
    if kind not in PEAKS:
        known = ", ".join(PEAKS)
        raise UserError(
            f"--topology={topology!r}: it is one of {known} or cpu, a colon and a shape, "
            "as in v5e:4x4"
        )
    shape, _, slices = topology.partition("*")
    for name, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        description = topologies.get_topology_desc(
            shape, platform="tpu", num_slices=int(slices or 1)
        )
    except Exception as error:  # The plugin's errors have no common class.
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("compiling for a TPU needs libtpu: pip install libtpu") from error
        reason = first_line(error)
        raise UserError(f"libtpu does not know --topology={topology!r}: {reason}") from error
    return list(description.devices), kind


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
