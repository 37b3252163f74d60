"""Where the time of a training step goes: `launch.py --mode=profile`."""

import collections
import itertools
import statistics
import tempfile
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from auxseg_jax import checks, files, sharding, stages
from auxseg_jax.data import dataset, loader
from auxseg_jax.models import auxsegnet
from auxseg_jax.training import losses, optimizer, step

_STEPS = 10


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
    network = stages.build_network(config, data.num_classes)
    params = step.init_params(network, (config.augment.crop, config.augment.crop), config.seed, mesh)
    transform = optimizer.make_optimizer(params, 1000, lr=0.0, **config.optimizer)
    frozen = config.optimizer.frozen
    train_step = step.make_train_step(network, transform, losses.stage_losses, dict(config.loss), mesh, dense=True, frozen=frozen)
    state = step.create_state(params, transform, config.seed, mesh)
    with tempfile.TemporaryDirectory() as folder:
        source = data.photos(data.train_split)
        _stand_in_labels(source, epath.Path(folder))
        options = dict(config.augment) | auxsegnet.normalisation(config.model)
        stream = loader.train_batches(source, folder, section.batch_size, config.seed, 0, options, **config.loader)
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


def _stand_in_labels(source: Any, folder: epath.Path) -> None:
    for example in (source[i] for i in range(len(source))):
        saliency = files.decode_plane(example["saliency"])
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
