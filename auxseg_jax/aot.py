"""Compiles a config's programs for devices that nobody here holds: `launch.py --mode=compile --topology=v5e:4x4`.

The programs are those of a run (prediction without the saliency maps), with their shardings; XLA's own analysis says what a device needs
and does. What it says of time is an estimate: the longest of three, each at its peak (arithmetic, memory, messages), which no program reaches.
"""

import collections
import importlib.util
import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import rich.console
import rich.table
from jax.experimental import topologies
from jax.sharding import Mesh

from auxseg_jax import checks, passes, recipe, sharding
from auxseg_jax.data import dataset, loader
from auxseg_jax.terminal import first_line
from auxseg_jax.training import step

EFFORTS = ("fast", "full")
PROGRAMS = ("train", "cam", "update", "predict")
_PHOTO = (375, 500)  # most of VOC's
_PEAKS_SOURCE = "docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}, 2026-11"
# of a chip: bfloat16 FLOP/s, bytes/s of memory, bytes/s sent to other chips
_PEAKS = {
    "v5e": {"flops": 197e12, "memory_rate": 819e9, "message_rate": 200e9},
    "v5p": {"flops": 459e12, "memory_rate": 2765e9, "message_rate": 600e9},
    "v6e": {"flops": 918e12, "memory_rate": 1600e9, "message_rate": 400e9},
}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def run(config: ml_collections.ConfigDict, topology: str, effort: str = "fast", programs: tuple[str, ...] = PROGRAMS) -> dict[str, Any]:
    """Compiles and analyses.

    Args:
      config: of the run; its mesh is laid over the topology.
      topology: "v5e:4x4" and the like of libtpu, with "*2" behind it for two such slices; or "cpu:8".
      effort: "fast" leaves out most of XLA's optimisation, which memory and arithmetic hardly depend on; "full" has it, and takes many times longer.
      programs: of PROGRAMS.

    Returns:
      {"topology", "chips", "mesh", "programs": {name: see `_analyse`}}.

    Raises:
      ValueError: no such topology, effort or program; a mesh that does not fit.
    """
    checks.check(config)
    if effort not in EFFORTS:
        raise ValueError(f"--effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if unknown := set(programs) - set(PROGRAMS):
        raise ValueError(f"there is no program {min(unknown)!r}; there are {', '.join(PROGRAMS)}")
    devices, kind = _devices(topology)
    mesh = _mesh(config, devices)
    recipe.check_batch_sizes(config, mesh)
    if effort == "fast":
        jax.config.update("jax_optimization_level", "O0")
    jax.config.update("jax_enable_compilation_cache", False)
    lowered = _programs(config, mesh)
    parts = {"train": config.stages.accumulate}
    found = {name: _analyse(lowered[name], kind, mesh.size, parts.get(name, 1)) for name in programs}
    return {"topology": topology, "effort": effort, "chips": mesh.size, "mesh": dict(mesh.shape), "programs": found}


def _devices(topology: str) -> tuple[list[jax.Device], str]:
    """The devices of a topology, and their kind."""
    kind, _, rest = topology.partition(":")
    if kind == "cpu":
        if not rest.isdecimal() or not int(rest):
            raise ValueError(f"--topology={topology!r}: cpu:N takes the number of devices")
        try:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", int(rest))
        except RuntimeError:  # they are made already; those that are too many are left out
            pass
        if len(jax.devices("cpu")) < int(rest):
            raise ValueError(f"--topology={topology!r}: there are {len(jax.devices('cpu'))} devices")
        return jax.devices("cpu")[: int(rest)], kind
    if kind not in _PEAKS:
        raise ValueError(f"--topology={topology!r}: it is one of {', '.join(_PEAKS)} or cpu, a colon and a shape, as in v5e:4x4")
    shape, _, slices = topology.partition("*")
    # libtpu asks for a machine that is not there, and locks itself against a second process, unless told
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        found = topologies.get_topology_desc(shape, platform="tpu", num_slices=int(slices or 1))
    except Exception as error:  # of the plugin; RuntimeError, ValueError, JaxRuntimeError, NotImplementedError
        if importlib.util.find_spec("libtpu") is None:
            raise ValueError("--mode=compile for a TPU needs libtpu: pip install libtpu") from error
        raise ValueError(f"--topology={topology!r} is none that libtpu knows: {first_line(error)}") from error
    return list(found.devices), kind


def _mesh(config: ml_collections.ConfigDict, devices: list[jax.Device]) -> Mesh:
    fields = config.mesh
    data = len(devices) // (fields.fsdp * fields.model) if fields.data == -1 else fields.data
    if data * fields.fsdp * fields.model != len(devices):
        raise ValueError(f"mesh: data={data}, fsdp={fields.fsdp}, model={fields.model} is not {len(devices)}, the devices of the topology")
    return sharding.mesh_of(devices, data, fields.fsdp, fields.model)


def _programs(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Callable[[], jax.stages.Lowered]]:
    """What lowers each program."""
    classes = dataset.num_classes(**config.data)
    network = recipe.build_network(config, classes)
    params = recipe.abstract_params(network, config)
    # a pass over photos runs on the devices of one host
    first = mesh.devices.flat[0].process_index
    host = Mesh(np.array([device for device in mesh.devices.flat if device.process_index == first]), (sharding.DATA,))
    grid = recipe.grid_of(config)
    height, width = (grid.at_least(n) for n in _PHOTO)
    photos = loader.photos_a_batch((height, width), config.eval.batch_size, config.eval.megapixels, host.size)

    def train() -> jax.stages.Lowered:
        transform, train_step = recipe.train_step_of(config, network, params, mesh, steps=1000)
        count, crop = config.stages.batch_size, config.augment.crop
        batch = {
            "image": ((count, crop, crop, 3), np.float32),
            "labels": ((count, classes), np.float32),
            "segmentation": ((count, crop, crop), np.int32),
            "saliency": ((count, crop, crop), np.float32),
        }
        return train_step.lower(step.abstract_state(params, transform, mesh), _abstract(batch, mesh))

    def over_photos(function: Callable, params: dict, keys: tuple[str, ...]) -> jax.stages.Lowered:
        batch = {
            "image": ((photos, height, width, 3), np.float32),
            "inside": ((photos, height, width), np.bool_),
            "labels": ((photos, classes), np.float32),
            "saliency": ((photos, height, width), np.float32),
        }
        whole = sharding.replicated(host)
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), params)
        return passes.jit(function, host).lower(params, _abstract({key: batch[key] for key in keys}, host))

    everything = ("image", "inside", "labels", "saliency")
    initial, updated = recipe.initial_labels_of(config, network), recipe.updated_labels_of(config, network)
    segmentation = recipe.segmentation_of(config, network)
    return {
        "train": train,
        "cam": lambda: over_photos(initial, recipe.classifier_part(params), everything),
        "update": lambda: over_photos(updated, {"stage": params, "classifier": recipe.classifier_part(params)}, everything),
        "predict": lambda: over_photos(segmentation, params, ("image", "inside")),
    }


def _abstract(arrays: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    place = sharding.batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=place) for name, (shape, dtype) in arrays.items()}


def _analyse(lower: Callable[[], jax.stages.Lowered], kind: str, devices: int, parts: int) -> dict[str, Any]:
    """Of one device, for one call of the program, which does `parts` of a batch in a loop.

    Returns:
      fits: whether its memory holds it, as XLA says; None for the CPU.
      memory_bytes: at the peak, arguments included (where it does not fit the compiler may give what is temporary alone); argument_bytes,
        temp_bytes, code_bytes.
      flops, moved_bytes: arithmetic; bytes read and written, as if nothing stayed in a cache. The body of a loop counts once, the whole program
        for each part.
      loops: where they come from; parts of a batch among them, where those are several.
      collectives: {kind: {"count", "bytes", "sent_bytes"}}: of results; sent by a device on a ring. Messages between slices are not in it.
      seconds: {"arithmetic", "memory", "messages"} at the chip's peaks, and step_seconds, the longest; utilization, arithmetic / step_seconds.
      largest: the biggest results of the main program, not of what it calls, padded as the device keeps them: [{"bytes", "shape", "operation"}].
      compile_seconds: here.
      Where XLA itself says that it does not fit: fits, memory_bytes and compile_seconds alone.
    """
    peaks = _PEAKS.get(kind)
    started = time.monotonic()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _too_much(str(error))
        if needed is None:
            raise
        return {"fits": False, "memory_bytes": needed, "compile_seconds": round(time.monotonic() - started, 1)}
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    found = {
        "fits": None if peaks is None else True,
        "memory_bytes": needed,
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": parts * cost["flops"],
        "moved_bytes": parts * cost["bytes accessed"],
        "collectives": {kind: {key: parts * n for key, n in entry.items()} for kind, entry in collectives(text, devices).items()},
        "loops": re.findall(r' while\(.*op_name="([^"]*)"', text),
        "largest": _largest(text),
        "compile_seconds": round(time.monotonic() - started, 1),
    }
    if peaks:
        sent = sum(entry["sent_bytes"] for entry in found["collectives"].values())
        seconds = {
            "arithmetic": found["flops"] / peaks["flops"],
            "memory": found["moved_bytes"] / peaks["memory_rate"],
            "messages": sent / peaks["message_rate"],
        }
        found |= {"seconds": seconds, "step_seconds": max(seconds.values())}
        found["utilization"] = seconds["arithmetic"] / found["step_seconds"]
    return found


def _too_much(error: str) -> int | None:
    """The bytes that a program would need, of the compiler's words when they are not there; None: it says something else."""
    used = re.search(r"(?:memory space hbm\. Used |on HBM, the total memory required for HLO temporaries \()([\d.]+)([KMGT])(?: of|\))", error)
    return int(float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1)) if used else None


def collectives(hlo: str, devices: int) -> dict[str, dict[str, int]]:
    """Messages between `devices` in the text of a compiled program: {kind: {"count", "bytes" of the results, "sent_bytes" on a ring}}."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    pattern = re.compile(rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(")
    scatters = False
    for line in hlo.splitlines():
        if line.endswith("{"):
            scatters = line.lstrip("%").startswith("all-reduce-scatter")  # a TPU's name for a sum of which each device takes its part
        if not (match := pattern.search(line)):
            continue
        result, kind, start = match.groups()
        size = sum(_shape_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", result))
        group = _group_size(line) or devices
        if start and kind != "all-reduce":  # what starts names its operands beside its results
            size *= {"all-gather": group / (group + 1), "reduce-scatter": 1 / (group + 1)}.get(kind, 1 / 2)
        if scatters:
            kind, size = "reduce-scatter", size / group
        others = (group - 1) / group
        of_ring = {"all-reduce": 2 * others, "all-gather": others, "reduce-scatter": group - 1, "all-to-all": others, "collective-permute": 1}[kind]
        found[kind].update({"count": 1, "bytes": round(size), "sent_bytes": round(size * of_ring)})
    return {kind: dict(found[kind]) for kind in _COLLECTIVES if kind in found}


def _group_size(line: str) -> int:
    """How many devices talk to each other; 0: all."""
    if axes := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return int(np.prod([int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2])]))
    if groups := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(groups[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(listed[1].split(",")) if listed else 0


def _shape_bytes(dtype: str, dimensions: str) -> int:
    return _BYTES.get(dtype, 4) * int(np.prod([int(n) for n in dimensions.split(",") if n], dtype=np.int64))


def _largest(hlo: str, count: int = 5) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for line in hlo[hlo.rindex("\nENTRY ") :].splitlines():
        match = re.match(r"\s*(?:ROOT )?%?\S+ = (.*?) (?!get-tuple-element|parameter|bitcast|tuple)[a-z][\w-]*\(", line)
        for dtype, dimensions, layout in re.findall(r"(\w+)\[([\d,]+)\](\{[^}]*\})?", match[1]) if match else ():
            name = re.search(r'op_name="([^"]*)"', line)
            size = _padded_bytes(dtype, [int(n) for n in dimensions.split(",")], layout)
            shape = f"{dtype}[{dimensions}]{layout}"
            found.setdefault(shape, {"bytes": size, "shape": shape, "operation": name[1] if name else ""})
    return sorted(found.values(), key=lambda result: -result["bytes"])[:count]


def _padded_bytes(dtype: str, dimensions: list[int], layout: str) -> int:
    """As the device keeps it: {1,0:T(8,128)} is a layout whose last two dimensions are padded to multiples of 8 and 128."""
    order = [int(n) for n in re.findall(r"\d+", layout.split(":")[0])] or list(range(len(dimensions)))[::-1]
    tile = re.search(r":T\(([\d,]+)\)", layout)
    for minor, part in zip(order, reversed([int(n) for n in tile[1].split(",")]) if tile else (), strict=False):
        dimensions[minor] = -(-dimensions[minor] // part) * part
    return _shape_bytes(dtype, ",".join(map(str, dimensions)))


def show(found: dict[str, Any], console: rich.console.Console) -> None:
    """Prints what `run` found."""
    mesh = " x ".join(f"{name} {size}" for name, size in found["mesh"].items())
    table = rich.table.Table(title=f"{found['topology']}: {found['chips']} devices, {mesh}; per device (effort {found['effort']})")
    headings = (
        "program",
        "fits",
        "memory\nGiB",
        "arguments\nGiB",
        "temporary\nGiB",
        "code\nMiB",
        "TFLOP",
        "moved\nGB",
        "sent\nGB",
        "estimated\nseconds",
        "utilization",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, program in found["programs"].items():
        fits = {True: "yes", False: "no", None: "?"}[program["fits"]]
        if "flops" not in program:
            table.add_row(name, fits, _gib(program["memory_bytes"]))
            continue
        sent = sum(entry["sent_bytes"] for entry in program["collectives"].values())
        memory = [_gib(program[key]) for key in ("memory_bytes", "argument_bytes", "temp_bytes")]
        memory.append(f"{program['code_bytes'] / 2**20:.0f}")
        work = [f"{program['flops'] / 1e12:.3g}", f"{program['moved_bytes'] / 1e9:.3g}", f"{sent / 1e9:.3g}"]
        times = [f"{program['step_seconds']:.3g}", f"{100 * program['utilization']:.0f}%"] if "seconds" in program else []
        table.add_row(name, fits, *memory, *work, *times)
    console.print(table)
    for name, program in found["programs"].items():
        if program.get("collectives"):
            kinds = ", ".join(f"{entry['count']} {kind} of {entry['bytes'] / 1e6:.3g} MB" for kind, entry in program["collectives"].items())
            console.print(f"{name}: {kinds}", markup=False)
        if program.get("loops"):
            console.print(f"{name}: {len(program['loops'])} loops, as of affinities in blocks: one round of each is counted", markup=False)
    if any("seconds" in program for program in found["programs"].values()):
        slices = "; messages between slices are not in it" if "*" in found["topology"] else ""
        text = f"Estimated: the longest of arithmetic, memory and messages, each at the chip's peak ({_PEAKS_SOURCE}){slices}."
        console.print(text, markup=False)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
