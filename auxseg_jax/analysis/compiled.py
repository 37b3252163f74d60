"""Compiles a config's programs for devices that nobody here holds: `auxseg compile`.

The programs are those of a run (prediction without the saliency maps), with their shardings. XLA's
own analysis says what a device needs and does. What it says of time is an estimate: the longest of
arithmetic, memory and messages, each at its peak, which no program reaches.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

from auxseg_jax.analysis import hlo, products, targets
from auxseg_jax.analysis.programs import PROGRAMS, Programs, make_mesh
from auxseg_jax.config.validation import checked
from auxseg_jax.errors import UserError
from auxseg_jax.runs import build

EFFORTS = ("fast", "full")


@dataclasses.dataclass(frozen=True)
class Program:
    """One program on one device, for one call.

    Where XLA itself says that it does not fit, only `fits`, `memory_bytes` and `compile_seconds`
    are known.

    Attributes:
      fits: whether the device's memory holds it, as XLA says; None for the CPU.
      memory_bytes: memory at the peak, arguments included. Where it does not fit the compiler may
        give what is temporary alone.
      argument_bytes: parameters, state and batch.
      temp_bytes: what is made on the way.
      code_bytes: the program itself.
      flops: arithmetic. The body of a loop counts once; the whole program for each part of a batch.
        On a GPU it is that of products alone.
      product_flops: arithmetic of the products in the source, {"f32 highest": ...}: by type of the
        operands and precision, see `models.precision`.
      moved_bytes: bytes read and written, as if nothing stayed in a cache.
      loops: where they come from; parts of a batch among them, where those are several.
      collectives: see `hlo.collectives`. Messages between slices are not in it.
      largest: see `hlo.largest_results`.
      seconds: {"arithmetic", "memory", "messages"} at the chip's peaks.
      step_seconds: the longest of them.
      utilization: arithmetic / step_seconds.
      compile_seconds: here.
    """

    fits: bool | None
    memory_bytes: int
    compile_seconds: float
    argument_bytes: int | None = None
    temp_bytes: int | None = None
    code_bytes: int | None = None
    flops: float | None = None
    product_flops: dict[str, float] | None = None
    moved_bytes: float | None = None
    collectives: dict[str, dict[str, int]] | None = None
    loops: list[str] | None = None
    largest: list[hlo.Result] | None = None
    seconds: dict[str, float] | None = None
    step_seconds: float | None = None
    utilization: float | None = None

    @property
    def sent_bytes(self) -> int:
        """Bytes that a device sends."""
        return sum(entry["sent_bytes"] for entry in (self.collectives or {}).values())

    def to_json(self) -> dict[str, Any]:
        """Returns what is known, as JSON; `fits` always."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.largest is not None:
            content["largest"] = hlo.as_json(self.largest)
        return {k: v for k, v in content.items() if v is not None or k == "fits"}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The programs of a config on a topology.

    Attributes:
      topology: the name it was given.
      effort: one of EFFORTS.
      chips: number of devices.
      mesh: {axis: devices}.
      programs: {name: program}.
    """

    topology: str
    effort: str
    chips: int
    mesh: dict[str, int]
    programs: dict[str, Program]

    def to_json(self) -> dict[str, Any]:
        """Returns all figures as JSON."""
        programs = {name: program.to_json() for name, program in self.programs.items()}
        fields = ("topology", "effort", "chips", "mesh")
        return {name: getattr(self, name) for name in fields} | {"programs": programs}


def analyse(
    config: ml_collections.ConfigDict,
    topology: str,
    effort: str = "fast",
    programs: Sequence[str] = PROGRAMS,
) -> Analysis:
    """Compiles programs and analyses them.

    Args:
      config: the config of the run; its mesh is laid over the topology.
      topology: see `targets.find_devices`.
      effort: "fast" leaves out most of XLA's optimisation, on which memory and arithmetic hardly
        depend; "full" has it, and takes many times longer.
      programs: some of PROGRAMS.

    Raises:
      UserError: no such topology, effort or program; or a mesh that does not fit.
    """
    config = checked(config)
    if effort not in EFFORTS:
        raise UserError(f"--effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if not programs:
        raise UserError(f"--programs names none; there are {', '.join(PROGRAMS)}")
    if unknown := set(programs) - set(PROGRAMS):
        raise UserError(f"there is no program {min(unknown)!r}; there are {', '.join(PROGRAMS)}")
    devices, kind = targets.find_devices(topology)
    mesh = make_mesh(config, devices)
    build.check_batch_sizes(config, mesh)
    if effort == "fast":
        jax.config.update("jax_optimization_level", "O0")
    jax.config.update("jax_enable_compilation_cache", False)
    memory = targets.PEAKS[kind].memory_bytes if kind in targets.PEAKS else None
    lowered = Programs(config, mesh, memory=memory)
    parts = {"train": config.stages.accumulate}
    results = {
        name: _analyse_program(getattr(lowered, name), kind, mesh.size, parts.get(name, 1))
        for name in programs
    }
    return Analysis(topology, effort, mesh.size, dict(mesh.shape), results)


def _analyse_program(
    lower: Callable[[], jax.stages.Lowered], kind: str, devices: int, parts: int
) -> Program:
    """Compiles a program that does `parts` of a batch in a loop, and analyses it."""
    started = time.monotonic()
    try:
        lowered = lower()
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = hlo.missing_memory(str(error))
        if needed is None:
            raise
        return Program(False, needed, round(time.monotonic() - started, 1))
    seconds = round(time.monotonic() - started, 1)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    by_kind = collections.Counter()
    for product in products.products(lowered, devices):
        by_kind[f"{product.dtype} {product.precision}"] += parts * product.flops
    # XLA has no cost model for a GPU that is not there.
    cost = compiled.cost_analysis() or {}
    flops = parts * cost["flops"] if cost else sum(by_kind.values())
    moved = parts * (cost["bytes accessed"] if cost else hlo.moved_bytes(text))
    messages = {
        name: {key: parts * n for key, n in entry.items()}
        for name, entry in hlo.collectives(text, devices).items()
    }
    arguments, results = memory.argument_size_in_bytes, memory.output_size_in_bytes
    shared, temporary = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    program = Program(
        fits=True if kind in targets.PEAKS else None,
        memory_bytes=arguments + results - shared + temporary,
        compile_seconds=seconds,
        argument_bytes=arguments,
        temp_bytes=temporary,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=flops,
        product_flops=dict(by_kind),
        moved_bytes=moved,
        collectives=messages,
        loops=hlo.loops(text),
        largest=hlo.largest_results(text),
    )
    return _with_times(program, targets.PEAKS[kind]) if kind in targets.PEAKS else program


def _with_times(program: Program, peaks: targets.Peaks) -> Program:
    at_peaks = sum(
        n / peaks.flops[tuple(kind.split())] for kind, n in program.product_flops.items()
    )
    rate = sum(program.product_flops.values()) / at_peaks
    seconds = {
        "arithmetic": program.flops / rate,
        "memory": program.moved_bytes / peaks.memory_rate,
        "messages": program.sent_bytes / peaks.message_rate,
    }
    longest = max(seconds.values())
    return dataclasses.replace(
        program,
        fits=program.memory_bytes <= peaks.memory_bytes,
        seconds=seconds,
        step_seconds=longest,
        utilization=seconds["arithmetic"] / longest,
    )
