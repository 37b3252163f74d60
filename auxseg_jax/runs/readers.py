"""Builds from a config the readers of its photos."""

from collections.abc import Callable, Collection
from typing import Any

import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh

from auxseg_jax.data.loader import BatchOptions, PhotoReader, ReadOptions, TrainSource
from auxseg_jax.data.transforms import Augmentation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.files import file_sets
from auxseg_jax.runs import build


def photo_reader(
    config: ml_collections.ConfigDict,
    source: Any,
    sizes: list[tuple[int, int]],
    devices: int,
    share: tuple[int, int] = (0, 1),
    cams: Callable[[str], np.ndarray] | None = None,
    only: Collection[int] | None = None,
) -> PhotoReader:
    """Returns a reader of whole photos.

    Args:
      config: the config of the run.
      source: raw examples, see `PhotoReader`.
      sizes: (H, W) of every photo.
      devices: number of devices over which a batch is split.
      share: (index of this host, number of hosts).
      cams: see `PhotoReader`.
      only: see `BatchOptions`.
    """
    options = BatchOptions(
        **config.eval,
        grid=build.grid(config),
        devices=devices,
        share=share,
        only=only,
    )
    return PhotoReader(source, sizes, options, read_options(config), cams)


def train_source(
    config: ml_collections.ConfigDict,
    section: str,
    photos: Any,
    pseudo: epath.PathLike | None,
    mesh: Mesh,
    seed: int,
) -> TrainSource:
    """Returns what a phase of training reads.

    Args:
      config: the config of the run.
      section: "classifier" or "stages".
      photos: see `Dataset.photos`.
      pseudo: folder of pseudo labels, or None.
      mesh: the devices.
      seed: seed of order and augmentation.
    """
    batch_size = config[section].batch_size
    return TrainSource(
        photos=photos,
        pseudo=None if pseudo is None else file_sets.reader(pseudo),
        batch_size=batch_size,
        rows=mesh_lib.rows_of_host(batch_size, mesh),
        seed=seed,
        augmentation=Augmentation(**config.augment),
    )


def read_options(config: ml_collections.ConfigDict) -> ReadOptions:
    """Returns how readers read ahead."""
    return ReadOptions(**config.loader)
