"""Compiles a config's programs for devices that nobody here holds: `auxseg compile`.

The programs are those of a run (prediction without the saliency maps), with their shardings. XLA's
own analysis says what a device needs and does. What it says of time is an estimate: the longest of
arithmetic, memory and messages, each at its peak, which no program reaches.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from auxseg_jax.analysis import hlo, targets
from auxseg_jax.config.validation import check
from auxseg_jax.data import sources
from auxseg_jax.data.loader import photos_a_batch
from auxseg_jax.data.planes import LEARNED
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.inference import passes
from auxseg_jax.runs import build
from auxseg_jax.training import step

EFFORTS = ("fast", "full")
PROGRAMS = ("train", "cam", "update", "predict")
_PHOTO = (375, 500)  # Most photos of VOC have this height and width.


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
      topology: "v5e:4x4" and the like of libtpu, with "*2" behind it for two such slices; or
        "cpu:8".
      effort: "fast" leaves out most of XLA's optimisation, on which memory and arithmetic hardly
        depend; "full" has it, and takes many times longer.
      programs: some of PROGRAMS.

    Raises:
      UserError: no such topology, effort or program; or a mesh that does not fit.
    """
    check(config)
    if effort not in EFFORTS:
        raise UserError(f"--effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if unknown := set(programs) - set(PROGRAMS):
        raise UserError(f"there is no program {min(unknown)!r}; there are {', '.join(PROGRAMS)}")
    devices, kind = targets.find_devices(topology)
    mesh = _make_mesh(config, devices)
    build.check_batch_sizes(config, mesh)
    if effort == "fast":
        jax.config.update("jax_optimization_level", "O0")
    jax.config.update("jax_enable_compilation_cache", False)
    lowered = _Programs(config, mesh)
    parts = {"train": config.stages.accumulate}
    results = {
        name: _analyse_program(getattr(lowered, name), kind, mesh.size, parts.get(name, 1))
        for name in programs
    }
    return Analysis(topology, effort, mesh.size, dict(mesh.shape), results)


def _make_mesh(config: ml_collections.ConfigDict, devices: list[jax.Device]) -> Mesh:
    fsdp, model = config.mesh.fsdp, config.mesh.model
    data = len(devices) // (fsdp * model) if config.mesh.data == -1 else config.mesh.data
    if data * fsdp * model != len(devices):
        raise UserError(
            f"mesh: data={data}, fsdp={fsdp}, model={model} is not {len(devices)}, "
            "the devices of the topology"
        )
    return mesh_lib.mesh_of(devices, data, fsdp, model)


class _Programs:
    """Lowers each program of a run, by name."""

    def __init__(self, config: ml_collections.ConfigDict, mesh: Mesh):
        self._config, self._mesh = config, mesh
        self._classes = sources.num_classes(**config.data)
        self._network = build.network(config, self._classes)
        self._params = build.abstract_params(config, self._network)
        # A pass over photos runs on the devices of one host.
        self._host = mesh_lib.host_mesh(mesh, mesh.devices.flat[0].process_index)

    def train(self) -> jax.stages.Lowered:
        """Lowers the train step of a stage."""
        config, mesh = self._config, self._mesh
        transform, train_step = build.train_step(
            config, self._network, self._params, mesh, steps=1000
        )
        count, crop = config.stages.batch_size, config.augment.crop
        batch = {
            "image": ((count, crop, crop, 3), np.float32),
            "labels": ((count, self._classes), np.float32),
            **{plane.name: ((count, crop, crop), plane.dtype) for plane in LEARNED},
        }
        state = step.abstract_state(self._params, transform, mesh)
        return train_step.lower(state, _abstract(batch, mesh))

    def cam(self) -> jax.stages.Lowered:
        """Lowers the initial labels."""
        function = build.initial_labels(self._config, self._network)
        return self._over_photos(function, build.classifier_part(self._params))

    def update(self) -> jax.stages.Lowered:
        """Lowers the label update."""
        function = build.updated_labels(self._config, self._network)
        params = {"stage": self._params, "classifier": build.classifier_part(self._params)}
        return self._over_photos(function, params)

    def predict(self) -> jax.stages.Lowered:
        """Lowers the prediction."""
        function = build.segmentation(self._config, self._network)
        return self._over_photos(function, self._params, keys=("image", "inside"))

    def _over_photos(
        self, function: Callable, params: dict, keys: Sequence[str] | None = None
    ) -> jax.stages.Lowered:
        """Lowers a pass over photos of VOC's usual size; `keys` are the arrays that it reads."""
        fields, grid = self._config.eval, build.grid(self._config)
        size = tuple(grid.at_least(n) for n in _PHOTO)
        count = photos_a_batch(size, fields.batch_size, fields.megapixels, self._host.size)
        brought = sources.planes(**self._config.data)
        batch = {
            "image": ((count, *size, 3), np.float32),
            "inside": ((count, *size), np.bool_),
            "labels": ((count, self._classes), np.float32),
            **{p.name: ((count, *p.batch_shape(*size)), p.dtype) for p in brought},
        }
        batch = {key: batch[key] for key in keys or batch}
        whole = mesh_lib.replicated(self._host)
        params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), params
        )
        return passes.jit(function, self._host).lower(params, _abstract(batch, self._host))


def _abstract(
    arrays: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = mesh_lib.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }


def _analyse_program(
    lower: Callable[[], jax.stages.Lowered], kind: str, devices: int, parts: int
) -> Program:
    """Compiles a program that does `parts` of a batch in a loop, and analyses it."""
    started = time.monotonic()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = hlo.missing_memory(str(error))
        if needed is None:
            raise
        return Program(False, needed, round(time.monotonic() - started, 1))
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    messages = {
        name: {key: parts * n for key, n in entry.items()}
        for name, entry in hlo.collectives(text, devices).items()
    }
    arguments, results = memory.argument_size_in_bytes, memory.output_size_in_bytes
    shared, temporary = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    program = Program(
        fits=True if kind in targets.PEAKS else None,
        memory_bytes=arguments + results - shared + temporary,
        compile_seconds=round(time.monotonic() - started, 1),
        argument_bytes=arguments,
        temp_bytes=temporary,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=parts * cost["flops"],
        moved_bytes=parts * cost["bytes accessed"],
        collectives=messages,
        loops=hlo.loops(text),
        largest=hlo.largest_results(text),
    )
    return _with_times(program, targets.PEAKS[kind]) if kind in targets.PEAKS else program


def _with_times(program: Program, peaks: targets.Peaks) -> Program:
    seconds = {
        "arithmetic": program.flops / peaks.flops,
        "memory": program.moved_bytes / peaks.memory_rate,
        "messages": program.sent_bytes / peaks.message_rate,
    }
    longest = max(seconds.values())
    return dataclasses.replace(
        program,
        seconds=seconds,
        step_seconds=longest,
        utilization=seconds["arithmetic"] / longest,
    )
