"""Batches from a prepared data set, by Grain: augmented crops for training, whole photos in buckets for the rest.

Training batch (numpy; B this host's photos, S the crop):
  image float32 [B, S, S, 3] normalised, labels float32 [B, C]; in a stage also
  segmentation int32 [B, S, S] (255 ignore), saliency float32 [B, S, S] (0..1, -1 padding)

Batch of whole photos (H, W of the bucket; photos lie at the top left):
  image float32 [B, H, W, 3] normalised (0 where padded), inside bool [B, H, W] (photo, not padding),
  labels float32 [B, C], saliency float32 [B, H, W] in 0..1; rows past the batch's ids repeat its last photo
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import grain.python as grain
import numpy as np
from etils import epath

from auxseg_jax import files
from auxseg_jax.data import features, transforms
from auxseg_jax.grid import Grid


@dataclasses.dataclass(frozen=True)
class _Crop(grain.RandomMapTransform):
    """Raw example -> augmented training example; targets are read from a folder of pseudo labels, by id.

    "scale_seed" of an example, where there is one, is shared by its batch.
    """

    pseudo: epath.Path | None
    options: dict[str, Any]

    def random_map(self, raw: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = {"image": features.decode_image(raw["image"])}
        if self.pseudo is not None:
            name = raw["id"].decode()
            example["saliency"] = files.read_plane(self.pseudo / "saliency" / f"{name}.png").astype(np.float32) / 255
            example["segmentation"] = files.read_plane(self.pseudo / "segmentation" / f"{name}.png")
        scale_rng = np.random.default_rng(raw["scale_seed"]) if "scale_seed" in raw else rng
        example = transforms.augment(example, rng, scale_rng, **self.options)
        if "segmentation" in example:
            example["segmentation"] = example["segmentation"].astype(np.int32)
        return example | {"labels": raw["labels"].astype(np.float32)}


class _Rows(grain.MapDataset):
    """Of each batch of `parent` some rows, one after the other."""

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


def train_batches(
    source: Any,
    pseudo: epath.PathLike | None,
    batch_size: int,
    rows: Sequence[int],
    seed: int,
    start: int,
    options: dict[str, Any],
    *,
    threads: int,
    prefetch: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of augmented crops; order and augmentation are a function of (seed, epoch, index).

    Args:
      source: of `Dataset.photos`.
      pseudo: folder with segmentation/<id>.png and saliency/<id>.png, or None for the classifier phase.
      batch_size: over all hosts.
      rows: of such a batch, those that this host reads.
      seed: of order and augmentation.
      start: number of batches to skip (the step to resume at).
      options: of `transforms.augment`, and `scale_per`: "photo" or "batch", what shares a scale.
      threads, prefetch: of the reader.
    """
    data = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    options = dict(options)
    if options.pop("scale_per") == "batch":
        data = data.map_with_index(lambda index, raw: raw | {"scale_seed": (seed, index // batch_size)})
    data = data.random_map(_Crop(epath.Path(pseudo) if pseudo is not None else None, options))
    data = _Rows(data, batch_size, rows)  # after random_map, whose numbers go by the index
    data = data.batch(len(rows), drop_remainder=True)
    iterator = iter(data.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))
    iterator.set_state({"next_index": start})
    return iterator


def buckets(sizes: Sequence[tuple[int, int]], limit: int, grid: Grid) -> dict[tuple[int, int], tuple[int, int]]:
    """Maps each (H, W) to the size it is padded to, one of the grid: at most `limit` different ones, greedily the least padding.

    Every bucket costs one compilation of each program that sees whole photos.
    """
    if limit < 1:
        raise ValueError(f"eval.max_buckets must be at least 1, got {limit}")
    step, groups = 1, {}
    while True:  # a rough grid first, so that the pairs below stay few
        groups = {}
        for height, width in sizes:
            groups.setdefault((-(-height // step) * step, -(-width // step) * step), []).append((height, width))
        if len(groups) <= 64:
            break
        step *= 2
    while len(groups) > limit:
        waste = {}
        keys = sorted(groups)
        for i, a in enumerate(keys):
            for b in keys[i + 1 :]:
                joint = max(a[0], b[0]), max(a[1], b[1])
                waste[a, b] = sum((joint[0] * joint[1] - k[0] * k[1]) * len(groups[k]) for k in (a, b)), joint
        (a, b), (_, joint) = min(waste.items(), key=lambda item: (item[1][0], item[0]))
        merged = groups.pop(a) + groups.pop(b)
        groups.setdefault(joint, []).extend(merged)
    return {size: tuple(map(grid.at_least, bucket)) for bucket, members in groups.items() for size in members}


def photos_a_batch(size: tuple[int, int], batch_size: int, megapixels: float, devices: int) -> int:
    """How many photos padded to `size` (H, W) go into a batch, at most: the same number for each device, at least one."""
    room = min(batch_size, int(megapixels * 1e6 / (size[0] * size[1])))
    return max(room // devices, 1) * devices


@dataclasses.dataclass(frozen=True)
class PhotoBatch:
    """A batch of whole photos: what goes to the device, and what stays.

    Attributes:
      arrays: see the module.
      ids: of the real photos, the first len(ids) of the batch.
      sizes: their (H, W).
    """

    arrays: dict[str, np.ndarray]
    ids: list[str]
    sizes: list[tuple[int, int]]


class PhotoReader:
    """Plans the batches of a list of raw examples by size, and reads them: `for batch in reader`.

    Args:
      source: random access to dicts with id, image and, where there are any, labels and saliency.
      sizes: (H, W) of every photo.
      batch_size: photos a batch, at most; where a bucket's photos do not fill its last one, a photo is repeated.
      megapixels: in a batch, at most: of large photos fewer are taken, but one for each device.
      devices: over which a batch is split.
      share: (index of this host, number of hosts): which photos of a bucket are read here.
      mean, std: of the normalisation.
      grid: sizes that suit the network.
      max_buckets: see `buckets`.
      threads, prefetch: of the reader.
    """

    def __init__(
        self,
        source: Any,
        sizes: Sequence[tuple[int, int]],
        *,
        batch_size: int,
        megapixels: float,
        max_buckets: int,
        mean: Any,
        std: Any,
        grid: Grid,
        threads: int,
        prefetch: int,
        devices: int = 1,
        share: tuple[int, int] = (0, 1),
    ):
        self.grid = grid
        self._source, self._mean, self._std = source, mean, std
        self._threads, self._prefetch = threads, prefetch
        self._sizes = [tuple(size) for size in sizes]
        bucket_of = buckets(self._sizes, max_buckets, grid)
        members: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(self._sizes):
            members.setdefault(bucket_of[size], []).append(index)
        self._plan = []
        index, hosts = share
        for bucket, everyones in sorted(members.items()):
            indices = everyones[index::hosts]
            if not indices:
                continue
            count = min(photos_a_batch(bucket, batch_size, megapixels, devices), math.ceil(len(indices) / devices) * devices)
            self._plan += [(bucket, count, indices[i : i + count]) for i in range(0, len(indices), count)]

    @property
    def num_photos(self) -> int:
        """Number of photos that this reader reads."""
        return sum(len(indices) for _, _, indices in self._plan)

    def __iter__(self) -> Iterator[PhotoBatch]:
        data = grain.MapDataset.source(self._plan).map(self._read)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._prefetch)))

    def _read(self, planned: tuple[tuple[int, int], int, list[int]]) -> PhotoBatch:
        (height, width), count, indices = planned
        raws = [self._source[i] for i in indices]
        arrays = {
            "image": np.zeros((count, height, width, 3), np.float32),
            "inside": np.zeros((count, height, width), bool),
        }
        for key, shape in (("labels", np.shape(raws[0].get("labels"))), ("saliency", (height, width))):
            if key in raws[0]:
                arrays[key] = np.zeros((count, *shape), np.float32)
        for row, raw in enumerate(raws):
            image = features.decode_image(raw["image"])
            window = (row, slice(image.shape[0]), slice(image.shape[1]))
            arrays["image"][window] = transforms.normalize(image, self._mean, self._std)
            arrays["inside"][window] = True
            if "labels" in raw:
                arrays["labels"][row] = raw["labels"]
            if "saliency" in raw:
                arrays["saliency"][window] = files.decode_plane(raw["saliency"]).astype(np.float32) / 255
        for array in arrays.values():
            array[len(raws) :] = array[len(raws) - 1]
        return PhotoBatch(arrays, [raw["id"].decode() for raw in raws], [self._sizes[i] for i in indices])
