"""Examines a machine: `auxseg doctor`. What it is, whether it computes right, and how fast."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from auxseg_jax.analysis import official, speed, twins
from auxseg_jax.analysis.findings import FAIL, NOTE, PASS, Finding
from auxseg_jax.configs import common
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files import storage
from auxseg_jax.files.terminal import console, first_line
from auxseg_jax.inference import crf as crf_lib
from auxseg_jax.models.pairwise import Pairwise
from auxseg_jax.models.precision import PRECISIONS
from auxseg_jax.pseudo import random_walk
from auxseg_jax.training import checkpoint, step

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
# Limits of the differences from the authors' outputs: several times what was seen
# (docs/accelerators.md). TF32 in one product exceeds those of `highest`, and outputs of 0 exceed
# all.
_LIMITS = {
    "highest": {"cls": 3e-5, "cam": 3e-5, "seg": 5e-5, "sal": 3e-5, "affinity": 2e-5},
    "tensorfloat32": {"cls": 5e-3, "cam": 2e-2, "seg": 3e-2, "sal": 1e-2, "affinity": 1e-2},
    "bfloat16": {"cls": 0.1, "cam": 0.3, "seg": 0.3, "sal": 0.1, "affinity": 0.1},
}
_CHECKPOINT_BYTES = 64 * 2**20
_LEAST_FREE_BYTES = 5 * 2**30


def examine(
    folder: epath.PathLike, full: bool = False, only: Collection[str] = ()
) -> Iterator[Finding]:
    """Yields findings as they come; without any device that is the last.

    Args:
      folder: where checkpoints will be written; it is created, and what is written is removed.
      full: also times the real networks, the CRF on a photo of usual size, and a whole run.
      only: names of examinations; the others are left out. Empty: all.
    """
    examinations = {"versions": _versions, "devices": _devices}
    for finding in _run(examinations, folder, only):
        yield finding
        if finding.name == "devices" and not finding.figures.get("count"):
            return
    # On a CPU, products of float32 are float32 however they are asked for.
    is_cpu = jax.default_backend() == "cpu"
    precisions = [p for p in PRECISIONS if not (is_cpu and p == "tensorfloat32")]
    examinations = {
        "memory": _memory,
        **{f"network {p}": functools.partial(_network, p) for p in precisions},
        "random walk": _random_walk,
        "dense CRF": _crf,
        **{
            f"train step {p}": functools.partial(_train_step, speed.time_small_step, p)
            for p in precisions
        },
        "loader": _loader,
        "checkpoint": functools.partial(_checkpoint, epath.Path(folder).expanduser()),
    }
    if full:
        examinations |= {
            **{
                f"{name} {p}": functools.partial(_train_step, speed.time_real_step, name, p)
                for name in speed.REAL_STEPS
                for p in precisions
            },
            "dense CRF of 500x375": _crf_times,
            "whole run": _whole_run,
        }
    yield from _run(examinations, folder, only)


def _run(
    examinations: Mapping[str, Callable[[], Finding]],
    folder: epath.PathLike,
    only: Collection[str],
) -> Iterator[Finding]:
    for name, work in examinations.items():
        if only and name not in only:
            continue
        started = time.monotonic()
        try:
            with console.status(f"examining: {name}"):  # Seen on a terminal.
                finding = work()
        except Exception as error:  # The others are examined all the same.
            text = f"{type(error).__name__}: {first_line(error)}"
            finding = Finding(name, FAIL, text, _advice(error, folder))
        seconds = round(time.monotonic() - started, 1)
        yield dataclasses.replace(finding, name=name, seconds=seconds)


def _advice(error: Exception, folder: epath.PathLike) -> str:
    if isinstance(error, ImportError):
        return f"a package is missing: pip install {error.name or 'it'}"
    if isinstance(error, OSError):
        return f"a file or folder cannot be used; --workdir is {os.fspath(folder)}"
    return "a fault of the installation, or of this package: please report it"


def _versions() -> Finding:
    figures = {"python": platform.python_version()}
    figures |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    for name in _PLUGINS:
        try:
            figures[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name != "libtpu" and figures[name] != figures["jaxlib"]:
            advice = f"pip install {name}=={figures['jaxlib']}"
            text = f"{name} {figures[name]} does not go with jaxlib {figures['jaxlib']}"
            return Finding("", FAIL, text, advice, figures)
    text = ", ".join(f"{name} {version}" for name, version in figures.items())
    return Finding("", PASS, text, figures=figures)


def _devices() -> Finding:
    install = "pip install 'auxseg_jax[cuda13]' (driver 580 or newer), [cuda12] or [tpu]"
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX raises either.
        platforms = os.environ.get("JAX_PLATFORMS")
        text = f"JAX finds no device (JAX_PLATFORMS={platforms}) {first_line(error)}"
        return Finding("", FAIL, text, f"unset JAX_PLATFORMS, or {install}")
    kinds = sorted({d.device_kind for d in devices})
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    figures = {"count": len(devices), "kinds": kinds, "cores": cores, "load": load}
    text = f"{len(devices)} x {', '.join(kinds)}; {cores} CPU cores, load {load:.1f}"
    if devices[0].platform == "cpu" and os.path.exists("/dev/nvidiactl"):
        advice = f"JAX does not use this machine's NVIDIA GPU: {install}; unset JAX_PLATFORMS"
        return Finding("", FAIL, text, advice, figures)
    if load > cores:
        return Finding("", NOTE, text, "other programs run: speeds will look low", figures)
    if devices[0].platform == "cpu":
        return Finding("", NOTE, text, f"no GPU or TPU; if there should be one: {install}", figures)
    return Finding("", PASS, text, figures=figures)


def _memory() -> Finding:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    device = mesh_lib.memory_of(jax.devices()[0])
    text = f"the machine has {machine / 2**30:.1f} GiB"
    if device:
        share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "not set: 0.75")
        text += f", JAX has {device / 2**30:.1f} GiB of each device"
        text += f" (XLA_PYTHON_CLIENT_MEM_FRACTION is {share})"
    return Finding("", PASS, text, figures={"machine_bytes": machine, "device_bytes": device})


def _network(precision: str) -> Finding:
    """Compares the authors' recorded outputs with ours, on this device."""
    errors, limits = official.worst_errors(precision), _LIMITS[precision]
    text = ", ".join(f"{name} {errors[name]:.1e} (<{limits[name]:.0e})" for name in limits)
    text = f"differences from the authors' outputs: {text}"
    if all(errors[name] <= limit for name, limit in limits.items()):
        return Finding("", PASS, text, figures=errors)
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    advice = "another jax may compute right; please report it, with the JSON of --output"
    if override not in (None, "0"):
        advice = f"unset NVIDIA_TF32_OVERRIDE={override}"
    return Finding("", FAIL, text, advice, errors)


def _compare(found: Any, wanted: np.ndarray, limit: float) -> Finding:
    error = float(np.abs(np.asarray(found, np.float64) - wanted).max())
    text = f"largest difference from numpy: {error:.1e}"
    status, advice = (PASS, "") if error <= limit else (FAIL, f"expected at most {limit:.0e}")
    return Finding("", status, text, advice, {"error": error})


def _random_walk() -> Finding:
    rng = np.random.default_rng(0)
    height, width, channels = 41, 41, 20
    cam = rng.random((1, height, width, channels)).astype(np.float32)
    matrix = rng.dirichlet(np.full(height * width, 0.1), height * width).astype(np.float32)
    options = {"beta": 2.0, "steps": 3, "normalize": True, "restart": 0.2}

    def walk(cam: jax.Array, matrix: jax.Array) -> jax.Array:
        return random_walk.random_walk(cam, Pairwise.of(matrix), **options)

    found = compilation.jit(walk)(cam, matrix[None])
    wanted = twins.random_walk(cam.reshape(-1, channels), matrix, **options)
    return _compare(found.reshape(wanted.shape), wanted, 1e-5)


def _crf() -> Finding:
    """Compares both filters: the exact one with numpy, the lattice with the exact one."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 256, (3, 4, 3)), 8, 0), 8, 1).astype(np.float32)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.float32)
    unary = rng.gamma(1.0, 1.0, (*image.shape[:2], 5)).astype(np.float32)
    fields = dict(common.get_config("official").crf.segmentation)
    found = {}
    for name in crf_lib.FILTERS:
        function = functools.partial(
            crf_lib.mean_field, options=crf_lib.CrfOptions(filter=name, **fields)
        )
        found[name] = compilation.jit(function)(image, unary, np.ones(image.shape[:2], bool))
    finding = _compare(found["exact"], twins.mean_field(image, unary, fields), 1e-5)
    same = float((found["exact"].argmax(-1) == found["lattice"].argmax(-1)).mean())
    text = f"{finding.text}; lattice and exact filter agree on {100 * same:.1f}% of labels"
    finding = dataclasses.replace(finding, text=text, figures=finding.figures | {"same": same})
    if same < 0.9:
        return dataclasses.replace(finding, status=FAIL, advice="expected at least 90%")
    return finding


def _train_step(measure: Callable[..., speed.StepTimes], *arguments: str) -> Finding:
    """Times a train step: the small one, or that of a real backbone."""
    times = measure(*arguments)
    figures = dataclasses.asdict(times)
    text = (
        f"{1000 * times.seconds:.3g} ms ({1000 * times.fastest:.3g} to "
        f"{1000 * times.slowest:.3g}) for {times.batch_size} crops of {times.crop} pixels, "
        f"{times.flops / times.seconds / 1e12:.2g} TFLOP/s, {100 * times.share:.0f}% of what one "
        f"large matrix product reaches here; compiled in {times.compile_seconds:.0f} s"
    )
    if not times.is_finite:
        return Finding("", FAIL, text, "the loss is not finite", figures)
    return Finding("", PASS, text, figures=figures)


def _loader() -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        rates = speed.time_loader(epath.Path(folder))
    crops, photos = rates["crops_per_second"], rates["photos_per_second"]
    text = (
        f"{crops:.0f} crops/s of 321 pixels, {photos:.0f} whole photos/s of 500x375, "
        f"{rates['threads']} threads"
    )
    return Finding("", PASS, text, figures=rates)


def _checkpoint(folder: epath.Path) -> Finding:
    """Writes a state and reads it again."""
    mesh = mesh_lib.make_mesh()
    values = np.arange(_CHECKPOINT_BYTES // 4, dtype=np.float32)
    place = mesh_lib.replicated(mesh)
    state = step.TrainState(
        *jax.device_put((jnp.int32(1), np.uint32(0), {"values": values}, ()), place)
    )
    path = folder / f"doctor_{uuid.uuid4().hex[:8]}"
    try:
        started = time.monotonic()
        with checkpoint.Checkpoints(path) as checkpoints:
            checkpoints.save(state, 0.0)
        written = time.monotonic()
        with checkpoint.Checkpoints(path) as checkpoints:
            restored = checkpoints.restore(state)
        read = time.monotonic()
    finally:
        if path.exists():
            path.rmtree()
    free = None if storage.is_remote(folder) else shutil.disk_usage(folder).free
    figures = {
        "write_seconds": round(written - started, 2),
        "read_seconds": round(read - written, 2),
        "bytes": _CHECKPOINT_BYTES,
        "free_bytes": free,
    }
    text = f"64 MiB written in {figures['write_seconds']} s, read in {figures['read_seconds']} s"
    text += f"; {free / 2**30:.0f} GiB are free in {folder}" if free is not None else ""
    if not np.array_equal(restored.params["values"], values):
        return Finding("", FAIL, text, "what was read is not what was written", figures)
    if free is not None and free < _LEAST_FREE_BYTES:
        return Finding("", NOTE, text, "a run of ResNet38 needs some 5 GiB", figures)
    return Finding("", PASS, text, figures=figures)


def _crf_times() -> Finding:
    rows = speed.time_crfs()
    text = "; ".join(
        f"{row.labels} labels, {row.iterations} iterations {1000 * row.seconds:.1f} ms"
        for row in rows
    )
    return Finding("", PASS, text, figures={"rows": [row.to_json() for row in rows]})


def _whole_run() -> Finding:
    seconds = speed.time_run()
    text = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return Finding("", PASS, f"--config=demo: {text}", figures=seconds)
