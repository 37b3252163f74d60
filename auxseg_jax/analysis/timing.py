"""Times the loader, the training step and the dense CRF: `auxseg profile`."""

import collections
import dataclasses
import functools
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax.config.validation import checked
from auxseg_jax.data import dataset, features, loader, pseudo_labels
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files import file_sets, images
from auxseg_jax.inference import crf as crf_lib
from auxseg_jax.runs import build, readers
from auxseg_jax.training import step

_STEPS = 10
_BATCHES = 40
_CRF_SCALES = (0.25, 0.5, 1.0, 2.0)
_CRF_LABELS = 21
_CRF_PHOTOS = 8
_OPERATIONS_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class TrainingTimes:
    """What training takes at a config's shapes.

    Attributes:
      loader_photos_per_second: the loader alone; a mean over 40 batches, after the queue of the
        reader was emptied.
      step_photos_per_second: the step alone; see `step_seconds`.
      step_seconds: median of 10 steps on a batch that is on the device.
      compile_seconds: compilation of the step; near 0 if it is in the compilation cache.
      operations: share of the step's device time, percent, by kind of XLA operation.
    """

    loader_photos_per_second: float
    step_photos_per_second: float
    step_seconds: float
    compile_seconds: float
    operations: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class CrfTimes:
    """What a CRF takes on a photo.

    Attributes:
      size: "WIDTHxHEIGHT".
      labels: number of labels.
      iterations: iterations of mean field.
      seconds: time of a photo alone, median of 5.
      photos_per_second: rate of a bucket of 8.
      compile_seconds: compilation for a photo alone.
      peak_mib: peak memory of the process so far; sizes come in rising order.
    """

    size: str
    labels: int
    iterations: int
    seconds: float
    photos_per_second: float
    compile_seconds: float
    peak_mib: int

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as JSON."""
        return dataclasses.asdict(self)


def time_training(config: ml_collections.ConfigDict) -> TrainingTimes:
    """Times the loader alone and the train step of a stage alone.

    The labels are made from the saliency maps: only their shapes matter.
    """
    config = checked(config)
    compilation.set_compilation_cache(config.compilation_cache)
    batch_size = config.stages.batch_size
    mesh = mesh_lib.make_mesh(**config.mesh)
    data = dataset.prepare(**config.data)
    network = build.network(config, data.num_classes)
    params = build.initialiser(config, network, mesh)(jax.random.key(config.seed))
    transform, train_step = build.train_step(config, network, params, mesh, steps=1000)
    state = step.create_state(params, transform, config.seed, mesh)
    with tempfile.TemporaryDirectory() as folder:
        photos = data.photos(data.train_split)
        write_stand_in_labels(photos, epath.Path(folder))
        source = readers.train_source(config, "stages", photos, folder, mesh, config.seed)
        stream = loader.train_batches(source, readers.read_options(config), start=0)
        loading = time_batches(stream, readers.read_options(config).waiting, _BATCHES)
        batch = mesh_lib.put_batch(next(stream), mesh)
        stream.close()  # Its threads read ahead, from the folder that is about to go.
    seconds, state, _ = time_steps(train_step, state, batch, _STEPS + 1)
    stepping = statistics.median(seconds[1:])
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(train_step(state, batch))
        operations = _read_trace(epath.Path(folder))
    return TrainingTimes(
        loader_photos_per_second=round(batch_size / loading, 1),
        step_photos_per_second=round(batch_size / stepping, 1),
        step_seconds=round(stepping, 3),
        compile_seconds=round(seconds[0] - stepping, 1),
        operations=operations,
    )


def time_steps(
    train_step: Callable, state: step.TrainState, batch: dict, count: int
) -> tuple[list[float], step.TrainState, dict]:
    """Returns the seconds of `count` steps, the state after them, and the last metrics."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        state, metrics = train_step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    return seconds, state, metrics


def time_batches(stream: Iterator, waiting: int, count: int) -> float:
    """Returns the seconds a batch of `count`, after the batches that may be waiting."""
    batches = itertools.islice(stream, waiting + count)
    times = [time.perf_counter() for _ in batches][waiting:]
    return (times[-1] - times[0]) / (len(times) - 1)


def time_crf(
    config: ml_collections.ConfigDict,
    photo: epath.PathLike,
    scales: Sequence[float] = _CRF_SCALES,
) -> list[CrfTimes]:
    """Times the CRFs that a config uses on a photo.

    The energies are noise: the time depends on the photo and the number of labels alone.

    Args:
      config: its `crf`; a CRF of 0 iterations is left out.
      photo: file.
      scales: factors of the photo's size.
    """
    config = checked(config)
    compilation.set_compilation_cache(config.compilation_cache)
    data = epath.Path(photo).expanduser().read_bytes()
    picture = Image.fromarray(features.decode_image(data))
    rows = []
    for scale in scales:
        size = tuple(max(round(scale * n), 1) for n in picture.size)
        rows += time_photo(config, np.asarray(picture.resize(size, Image.Resampling.BICUBIC)))
    return rows


def time_photo(config: ml_collections.ConfigDict, photo: np.ndarray) -> list[CrfTimes]:
    """Times the CRFs that a config uses on one photo, uint8 [H, W, 3]."""
    noise = np.random.default_rng(config.seed).dirichlet(np.ones(_CRF_LABELS), photo.shape[:2])
    noise = noise.astype(np.float32)
    given = {"saliency": noise[..., 0], "segmentation": noise}
    image = photo.astype(np.float32)
    return [
        _time_one_crf(config, use, image, values)
        for use, values in given.items()
        if config.crf[use].iterations
    ]


def _time_one_crf(
    config: ml_collections.ConfigDict, use: str, image: np.ndarray, given: np.ndarray
) -> CrfTimes:
    options = build.crf_options(config, use)
    function = functools.partial(getattr(crf_lib, use), options=options)
    height, width = image.shape[:2]
    arguments = image, given, np.ones((height, width), bool)
    bucket = tuple(np.stack([array] * _CRF_PHOTOS) for array in arguments)
    started = time.perf_counter()
    alone = compilation.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - started
    seconds = statistics.median(time_calls(alone, arguments, 5))
    together = compilation.jit(jax.vmap(function)).lower(*bucket).compile()
    rate = _CRF_PHOTOS / min(time_calls(together, bucket, 1))
    return CrfTimes(
        size=f"{width}x{height}",
        labels=2 if use == "saliency" else _CRF_LABELS,
        iterations=config.crf[use].iterations,
        seconds=float(f"{seconds:.3g}"),
        photos_per_second=float(f"{rate:.3g}"),
        compile_seconds=round(compile_seconds, 1),
        peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )


def time_calls(function: Callable, arguments: tuple, runs: int) -> list[float]:
    """Returns the seconds of `runs` calls after a first one."""
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def write_stand_in_labels(photos: Any, folder: epath.Path) -> None:
    """Writes pseudo labels that are made from the saliency: only their shapes matter."""
    with file_sets.writer(folder, "files") as write:
        for example in (photos[index] for index in range(len(photos))):
            if "saliency" in example:
                saliency = images.decode_plane(example["saliency"])
            else:
                saliency = np.zeros(example["size"], np.uint8)
            planes = {"segmentation": (saliency > 127).astype(np.uint8), "saliency": saliency}
            write(example["id"].decode(), pseudo_labels.encode(planes))


def _read_trace(folder: epath.Path) -> dict[str, float]:
    """Returns percent of the time of all XLA operations, by their name without number."""
    totals: collections.Counter[str] = collections.Counter()
    for path in folder.glob("plugins/profile/*/*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    if any(name == "hlo_op" for name, _ in event.stats):
                        totals[event.name.split(".")[0]] += event.duration_ns
    whole = sum(totals.values())
    largest = totals.most_common(_OPERATIONS_SHOWN)
    return {name: round(100 * value / whole, 1) for name, value in largest}
