"""Batches from a prepared data set, by Grain.

Training batch of augmented crops (numpy; B this host's photos, S the crop):
  image uint8 [B, S, S, 3] RGB, window int32 [B, 4] (top, left, bottom, right of the photo in it),
  labels float32 [B, C]; in a stage also the learned planes: segmentation int32 [B, S, S] (255
  ignore), saliency float32 [B, S, S] (0..1, -1 padding)

Batch of whole photos in buckets (H, W of the bucket; photos lie at the top left):
  image uint8 [B, H, W, 3] RGB (0 where padded), inside bool [B, H, W] (photo, not padding), labels
  float32 [B, C], and every plane that the data set brings: saliency float32 [B, H, W] in 0..1. With
  kept CAMs also classifier_cam float32 [B, h, w, C] on the feature grid, 0 for classes that the
  photo does not have. Rows past the batch's ids repeat its last photo.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import grain.python as grain
import numpy as np

from auxseg_jax.data import features, pseudo_labels, transforms
from auxseg_jax.data.buckets import buckets, photos_a_batch
from auxseg_jax.data.planes import GIVEN, PLANES
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets, images
from auxseg_jax.grid import Grid


@dataclasses.dataclass(frozen=True)
class _Crop(grain.RandomMapTransform):
    """Turns a raw example into an augmented one; targets are read from pseudo labels, by id.

    "scale_seed" of an example, where there is one, is shared by its batch.
    """

    pseudo: file_sets.Read | None
    options: transforms.Augmentation

    def random_map(self, raw: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = {"image": features.decode_image(raw["image"])}
        if self.pseudo is not None:
            for name, plane in pseudo_labels.read(self.pseudo, raw["id"].decode()).items():
                example[name] = PLANES[name].scale(plane)
        scale_rng = np.random.default_rng(raw["scale_seed"]) if "scale_seed" in raw else rng
        example = transforms.augment(example, rng, scale_rng, self.options)
        for name in PLANES.keys() & example.keys():
            example[name] = example[name].astype(PLANES[name].dtype)
        return example | {"labels": raw["labels"].astype(np.float32)}


class _HostRows(grain.MapDataset):
    """Selects this host's rows from every batch of the parent data set."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]):
        super().__init__(parent)
        self._batch_size, self._rows = batch_size, tuple(rows)

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + self._rows[row]]


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How a reader reads ahead: the config's `loader.*`.

    Attributes:
      threads: threads that decode and augment; 0: one for each CPU core of this process.
      prefetch: examples or batches that wait, but at least one a thread.
    """

    threads: int
    prefetch: int

    @property
    def active_threads(self) -> int:
        """Number of threads, above 0."""
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def waiting(self) -> int:
        """Number of elements that wait: Grain has no more threads at work than that."""
        return max(self.prefetch, self.active_threads)

    def iterate(self, data: grain.MapDataset) -> Iterator:
        """Returns an iterator over `data`."""
        options = grain.ReadOptions(self.active_threads, self.waiting)
        return iter(data.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class TrainSource:
    """What a phase of training reads.

    Attributes:
      photos: see `Dataset.photos`.
      pseudo: reads pseudo labels, or None for the classifier phase.
      batch_size: photos a batch, over all hosts.
      rows: the rows of such a batch that this host reads.
      seed: seed of order and augmentation.
      augmentation: how examples are augmented.
    """

    photos: Any
    pseudo: file_sets.Read | None
    batch_size: int
    rows: Sequence[int]
    seed: int
    augmentation: transforms.Augmentation


def train_batches(
    source: TrainSource, reading: ReadOptions, start: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields endless batches of augmented crops.

    Order and augmentation are a function of (seed, epoch, index).

    Args:
      source: what is read.
      reading: how it is read ahead.
      start: number of batches to skip: the step to resume at.
    """
    seed, batch_size = source.seed, source.batch_size
    data = grain.MapDataset.source(source.photos).seed(seed).shuffle().repeat()
    if source.augmentation.scale_per == "batch":
        data = data.map_with_index(
            lambda index, raw: raw | {"scale_seed": (seed, index // batch_size)}
        )
    data = data.random_map(_Crop(source.pseudo, source.augmentation))
    # The rows are selected after random_map, whose random numbers go by the index.
    data = _HostRows(data, batch_size, source.rows)
    data = data.batch(len(source.rows), drop_remainder=True)
    iterator = reading.iterate(data)
    iterator.set_state({"next_index": start})
    return iterator


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How whole photos are batched.

    Attributes:
      batch_size: photos a batch, at most.
      megapixels: the most in a batch; large photos are fewer, but one for each device.
      max_buckets: see `buckets`.
      grid: sizes that suit the network.
      devices: number of devices over which a batch is split.
      share: (index of this host, number of hosts): which photos of a bucket are read here.
      only: indices of the photos that are read; None: all. Buckets are those of all photos.
    """

    batch_size: int
    megapixels: float
    max_buckets: int
    grid: Grid
    devices: int = 1
    share: tuple[int, int] = (0, 1)
    only: Collection[int] | None = None


@dataclasses.dataclass(frozen=True)
class PhotoBatch:
    """A batch of whole photos: what goes to the device, and what stays.

    Attributes:
      arrays: see the module.
      ids: ids of the real photos, the first len(ids) of the batch.
      sizes: their (H, W).
    """

    arrays: dict[str, np.ndarray]
    ids: list[str]
    sizes: list[tuple[int, int]]


class PhotoReader:
    """Plans the batches of a list of raw examples by size, and reads them: `for batch in reader`.

    Where a bucket's photos do not fill its last batch, a photo is repeated.

    Args:
      source: random access to dicts with id, image and, where there are any, labels and planes.
      sizes: (H, W) of every photo.
      options: how they are batched.
      reading: how they are read ahead.
      cams: id -> float32 [h, w, K] on the feature grid of the photo's bucket, of its K classes.
        Batches then have "classifier_cam" [B, h, w, C].
    """

    def __init__(
        self,
        source: Any,
        sizes: Sequence[tuple[int, int]],
        options: BatchOptions,
        reading: ReadOptions,
        cams: Callable[[str], np.ndarray] | None = None,
    ):
        self._source, self._options, self._reading = source, options, reading
        self._cams = cams
        self._sizes = [tuple(size) for size in sizes]
        bucket_of = buckets(self._sizes, options.max_buckets, options.grid)
        members: dict[tuple[int, int], list[int]] = {}
        wanted = range(len(self._sizes)) if options.only is None else sorted(options.only)
        for index, size in ((index, self._sizes[index]) for index in wanted):
            members.setdefault(bucket_of[size], []).append(index)
        self._plan = []
        host, hosts = options.share
        for bucket, everyones in sorted(members.items()):
            indices = everyones[host::hosts]
            if not indices:
                continue
            count = min(
                photos_a_batch(bucket, options.batch_size, options.megapixels, options.devices),
                math.ceil(len(indices) / options.devices) * options.devices,
            )
            for start in range(0, len(indices), count):
                self._plan.append((bucket, count, indices[start : start + count]))

    @property
    def num_photos(self) -> int:
        """Number of photos that this reader reads."""
        return sum(len(indices) for _, _, indices in self._plan)

    def blank_batches(self) -> list[dict[str, np.ndarray]]:
        """Returns the arrays of one batch of each shape that there is, with nothing in them."""
        planned = {(bucket, count): indices[0] for bucket, count, indices in self._plan}
        return [
            self._blank(bucket, count, self._source[index])
            for (bucket, count), index in planned.items()
        ]

    def __iter__(self) -> Iterator[PhotoBatch]:
        return self._reading.iterate(grain.MapDataset.source(self._plan).map(self._read))

    def _read(self, planned: tuple[tuple[int, int], int, list[int]]) -> PhotoBatch:
        bucket, count, indices = planned
        raws = [self._source[index] for index in indices]
        arrays = self._blank(bucket, count, raws[0])
        planes = [plane for plane in GIVEN if plane.name in raws[0]]
        for row, raw in enumerate(raws):
            image = features.decode_image(raw["image"])
            height, width = image.shape[:2]
            arrays["image"][row, :height, :width] = image
            arrays["inside"][row, :height, :width] = True
            if "labels" in raw:
                arrays["labels"][row] = raw["labels"]
            for plane in planes:
                values = plane.load(images.decode_plane(raw[plane.name]), (height, width))
                arrays[plane.name][row, ..., :height, :width] = values
        ids = [raw["id"].decode() for raw in raws]
        if self._cams:
            for row, name in enumerate(ids):
                self._place_cam(name, arrays["classifier_cam"][row], arrays["labels"][row])
        for array in arrays.values():
            array[len(raws) :] = array[len(raws) - 1]
        return PhotoBatch(arrays, ids, [self._sizes[index] for index in indices])

    def _blank(self, bucket: tuple[int, int], count: int, raw: dict) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch of `count` photos like `raw`, all 0."""
        arrays = {
            "image": np.zeros((count, *bucket, 3), np.uint8),
            "inside": np.zeros((count, *bucket), bool),
        }
        if "labels" in raw:
            arrays["labels"] = np.zeros((count, *raw["labels"].shape), np.float32)
        for plane in (plane for plane in GIVEN if plane.name in raw):
            arrays[plane.name] = np.zeros((count, *plane.batch_shape(*bucket)), plane.dtype)
        if self._cams:
            cells = (-(-n // self._options.grid.stride) for n in bucket)
            shape = count, *cells, len(raw["labels"])
            arrays["classifier_cam"] = np.zeros(shape, np.float32)
        return arrays

    def _place_cam(self, name: str, target: np.ndarray, labels: np.ndarray) -> None:
        """Puts the kept CAM of a photo into its row of a batch."""
        cam, present = self._cams(name), labels > 0
        expected = (*target.shape[:2], int(present.sum()))
        if cam.shape != expected:
            raise UserError(
                f"the kept CAM of {name} is {cam.shape}, expected {expected}: it was made with "
                "other sizes or labels; delete its folder, and the same command makes it again"
            )
        target[..., present] = cam
