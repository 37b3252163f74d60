"""Where the time of a training step goes, and what the dense CRF takes: `launch.py --mode=profile`."""

import collections
import functools
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax import checks, files, platform, recipe, sharding
from auxseg_jax.data import dataset, features, loader
from auxseg_jax.models import auxsegnet
from auxseg_jax.pseudo import crf as crf_lib
from auxseg_jax.training import step

_STEPS = 10
_CRF_SCALES = (0.25, 0.5, 1.0, 2.0)
_CRF_LABELS = 21
_CRF_PHOTOS = 8


def run(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Measures the loader alone and the train step of a stage alone, at the config's shapes.

    The labels are made from the saliency maps: only their shapes matter.

    Returns:
      loader_photos_per_second: mean over 40 batches, after the queue of the reader was emptied.
      step_photos_per_second, step_seconds: median of 10 steps on a batch that is on the device.
      compile_seconds: of the step, near 0 if it is in the compilation cache.
      operations: share of the step's device time, percent, by kind of XLA operation, largest first.
    """
    checks.check(config)
    section = config.stages
    mesh = sharding.make_mesh(**config.mesh)
    data = dataset.prepare(**config.data)
    network = recipe.build_network(config, data.num_classes)
    params = recipe.init_of(config, network, mesh)(jax.random.key(config.seed))
    transform, train_step = recipe.train_step_of(config, network, params, mesh, steps=1000)
    state = step.create_state(params, transform, config.seed, mesh)
    with tempfile.TemporaryDirectory() as folder:
        source = data.photos(data.train_split)
        _stand_in_labels(source, epath.Path(folder))
        options = dict(config.augment) | auxsegnet.normalisation(config.model)
        rows = sharding.rows_of_host(section.batch_size, mesh)
        stream = loader.train_batches(source, folder, section.batch_size, rows, config.seed, 0, options, **config.loader)
        count = config.loader.prefetch + 40
        times = [time.perf_counter() for _ in itertools.islice(stream, count)][config.loader.prefetch :]
        batch = sharding.put_batch(next(stream), mesh)
        stream.close()  # its threads read ahead, from the folder that is about to go
    loading = (times[-1] - times[0]) / (len(times) - 1)

    seconds = []
    for _ in range(_STEPS + 1):
        started = time.perf_counter()
        state, metrics = train_step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    stepping = statistics.median(seconds[1:])
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(train_step(state, batch))
        operations = _operations(epath.Path(folder))
    return {
        "loader_photos_per_second": round(section.batch_size / loading, 1),
        "step_photos_per_second": round(section.batch_size / stepping, 1),
        "step_seconds": round(stepping, 3),
        "compile_seconds": round(seconds[0] - stepping, 1),
        "operations": operations,
    }


def crf(config: ml_collections.ConfigDict, photo: epath.PathLike) -> list[dict[str, Any]]:
    """Measures the CRFs that a config uses on a photo at a quarter of its size, half, its own and twice.

    Energies are noise: the time depends on the photo and the number of labels alone.

    Returns:
      For each size and use: size, labels, iterations; seconds of a photo alone (median of 5); photos_per_second of a bucket of 8;
      compile_seconds; peak_mib of the process so far, sizes in rising order.
    """
    checks.check(config)
    picture = Image.fromarray(features.decode_image(epath.Path(photo).expanduser().read_bytes()))
    rng = np.random.default_rng(config.seed)
    rows = []
    for scale in _CRF_SCALES:
        width, height = (max(round(scale * n), 1) for n in picture.size)
        image = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        probabilities = rng.dirichlet(np.ones(_CRF_LABELS), (height, width)).astype(np.float32)
        uses = {"saliency": probabilities[..., 0], "segmentation": probabilities}
        for use, given in ((use, given) for use, given in uses.items() if config.crf[use].iterations):
            one = functools.partial(getattr(crf_lib, use), filter=config.crf.filter, **config.crf[use])
            arguments = image, given, np.ones((height, width), bool)
            bucket = tuple(np.stack([array] * _CRF_PHOTOS) for array in arguments)
            started = time.perf_counter()
            alone = platform.jit(one).lower(*arguments).compile()
            compilation = time.perf_counter() - started
            seconds = statistics.median(_seconds(alone, arguments, 5))
            together = platform.jit(jax.vmap(one)).lower(*bucket).compile()
            row = {"size": f"{width}x{height}", "labels": 2 if use == "saliency" else _CRF_LABELS, "iterations": config.crf[use].iterations}
            row |= {"seconds": float(f"{seconds:.3g}"), "photos_per_second": float(f"{_CRF_PHOTOS / min(_seconds(together, bucket, 1)):.3g}")}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(row | {"compile_seconds": round(compilation, 1), "peak_mib": round(peak)})
    return rows


def _seconds(function: Callable, arguments: tuple, runs: int) -> list[float]:
    """Of runs after a first one."""
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _stand_in_labels(source: Any, folder: epath.Path) -> None:
    for example in (source[i] for i in range(len(source))):
        saliency = files.decode_plane(example["saliency"]) if "saliency" in example else np.zeros(example["size"], np.uint8)
        files.write_pseudo_labels(folder, example["id"].decode(), (saliency > 127).astype(np.uint8), saliency)


def _operations(folder: epath.Path) -> dict[str, float]:
    """Percent of the time of all XLA operations in a trace, by the operation's name without its number."""
    totals: collections.Counter[str] = collections.Counter()
    for path in folder.glob("plugins/profile/*/*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    if any(name == "hlo_op" for name, _ in event.stats):
                        totals[event.name.split(".")[0]] += event.duration_ns
    whole = sum(totals.values())
    return {name: round(100 * value / whole, 1) for name, value in totals.most_common(12)}
