"""Times what a run is made of, on generated photos: for `auxseg doctor`."""

import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from auxseg_jax.analysis import products, programs, timing
from auxseg_jax.config import loading
from auxseg_jax.configs import common
from auxseg_jax.data import dataset, features, loader, shapes
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files import images
from auxseg_jax.models import precision as precision_lib
from auxseg_jax.runs import build, readers
from auxseg_jax.runs.run import train
from auxseg_jax.training import step

REAL_STEPS = ("resnet38", "efficientnet_lite0")
_STEPS = 8
_PHOTO = (375, 500)
_PHOTOS = 48
_BATCHES = 10


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """What a train step takes.

    Attributes:
      crop: side of a crop, pixels.
      batch_size: crops.
      seconds: median of 8 steps.
      fastest: the fastest of them, seconds.
      slowest: the slowest of them, seconds.
      crops_per_second: of all devices.
      compile_seconds: tracing and compilation.
      flops: arithmetic of its products, on one device.
      share: flops / seconds, as a share of what a large matrix product of the precision of the
        convolutions reaches on this device.
      is_finite: whether the loss is.
    """

    crop: int
    batch_size: int
    seconds: float
    fastest: float
    slowest: float
    crops_per_second: float
    compile_seconds: float
    flops: float
    share: float
    is_finite: bool


def time_small_step(precision: str) -> StepTimes:
    """Times the step of a network of six convolutions, small on a CPU and large elsewhere."""
    is_cpu = jax.default_backend() == "cpu"
    config = common.get_config()
    common.set_backbone(config, "tiny", width=32 if is_cpu else 512)
    config.augment.crop = 97 if is_cpu else 321
    return _time_step(config, precision, photos=2 if is_cpu else 16)


def time_real_step(backbone: str, precision: str) -> StepTimes:
    """Times the step of a real backbone at its usual crop and batch, or one photo on a CPU."""
    config = common.get_config()
    common.set_backbone(config, backbone)
    photos = 16
    if backbone != "resnet38":
        config.augment.crop, photos = 224, 8
    if jax.default_backend() == "cpu":
        photos = 1
    return _time_step(config, precision, photos)


def _time_step(config: ml_collections.ConfigDict, precision: str, photos: int) -> StepTimes:
    config.model.precision = precision
    mesh = mesh_lib.make_mesh()
    network = build.network(config, len(shapes.CLASSES) - 1)
    crop, count = config.augment.crop, photos * mesh.size
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        # Normalisations get positive scales and variances, so that nothing overflows.
        lambda leaf: np.abs(rng.normal(0, 0.02, leaf.shape)).astype(np.float32) + 1e-3,
        build.abstract_params(config, network),
    )
    transform, train_step = build.train_step(config, network, params, mesh, steps=1000)
    state = step.create_state(params, transform, 0, mesh)
    shapes_of = programs.train_batch(count, crop, network.num_classes)
    batch = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes_of.items()}
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["labels"][:] = rng.integers(0, 2, batch["labels"].shape)
    batch["window"][:] = 0, 0, crop, crop
    batch = mesh_lib.put_batch(batch, mesh)
    started = time.perf_counter()
    lowered = train_step.lower(state, batch)
    compiled = lowered.compile()
    compiling = time.perf_counter() - started
    seconds, _, metrics = timing.time_steps(compiled, state, batch, _STEPS + 1)
    stepping = statistics.median(seconds[1:])
    flops = sum(product.flops for product in products.products(lowered, mesh.size))
    return StepTimes(
        crop=crop,
        batch_size=count,
        seconds=stepping,
        fastest=min(seconds[1:]),
        slowest=max(seconds[1:]),
        crops_per_second=count / stepping,
        compile_seconds=compiling,
        flops=flops,
        share=flops / stepping / _product_rate(precision),
        is_finite=bool(np.isfinite(metrics["loss"])),
    )


@functools.cache
def _product_rate(precision: str) -> float:
    """Returns the FLOP/s of a large matrix product on one device."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), precision_lib.dtype(precision))
    with precision_lib.convolutions(precision):
        multiply = compilation.jit(jnp.matmul)
        seconds = timing.time_calls(multiply, (matrix, matrix), 5)
    return 2 * size**3 / min(seconds)


def time_loader(folder: epath.Path) -> dict[str, float]:
    """Times the reading of crops and of whole photos, both with the planes of a stage.

    Args:
      folder: where the generated photos are prepared.
    """
    config = common.get_config()
    common.set_backbone(config, "resnet38")
    common.set_data(config, "shapes", sizes=(_PHOTO,), train_photos=_PHOTOS, val_photos=1)
    config.data.cache_dir = str(folder / "data")
    data = dataset.prepare(**config.data)
    # Generated photos are PNGs, which take twice as long to decode as photos usually do.
    photos = [
        example | {"image": images.encode_jpeg(features.decode_image(example["image"]))}
        for example in data.photos(data.train_split)
    ]
    labels = folder / "labels"
    timing.write_stand_in_labels(photos, labels)
    mesh = mesh_lib.make_mesh()
    config.stages.batch_size = 8 * mesh.size
    source = readers.train_source(config, "stages", photos, labels, mesh, seed=0)
    reading = readers.read_options(config)
    stream = loader.train_batches(source, reading, start=0)
    batches = _BATCHES * reading.active_threads  # Enough work for all threads.
    seconds = timing.time_batches(stream, reading.waiting, batches)
    stream.close()
    photos, sizes = (x * reading.active_threads for x in (photos, data.sizes(data.train_split)))
    reader = readers.photo_reader(config, photos, sizes, devices=1)
    for _ in itertools.islice(reader, 1):
        pass
    started = time.perf_counter()
    count = sum(len(batch.ids) for batch in reader)
    reading_seconds = time.perf_counter() - started
    return {
        "crops_per_second": round(len(source.rows) / seconds, 1),
        "photos_per_second": round(count / reading_seconds, 1),
        "threads": reading.active_threads,
    }


def time_crfs() -> list[timing.CrfTimes]:
    """Times both CRFs of the preset `official` on a generated photo of usual size."""
    config = common.get_config("official")
    photo = shapes.render(np.random.default_rng(0), *_PHOTO)["image"]
    return timing.time_photo(config, photo)


def time_run() -> dict[str, Any]:
    """Runs the config `demo`; returns seconds by phase."""
    with tempfile.TemporaryDirectory() as folder:
        changes = {"data.cache_dir": f"{folder}/data", "compilation_cache": "", "mesh.data": 1}
        results = train(loading.load_config("demo", **changes), f"{folder}/workdir")
        return results.seconds
