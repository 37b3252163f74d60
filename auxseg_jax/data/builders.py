"""TFDS builders of the data sets that come as files: they differ in how their lists are read, not in what is built."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax.data import features, pictures
from auxseg_jax.data.listing import Listing, Photo
from auxseg_jax.terminal import progress


class _OfListing(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds the photos or the masks of a listing, from what `pictures.check` left under `work`."""

    VERSION = tfds.core.Version("2.1.0")
    BUILDER_CONFIGS = features.builder_configs()

    def __init__(self, *, listing: Listing, work: epath.PathLike, **kwargs):
        self._listing, self._work = listing, work
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return features.dataset_info(self, self._listing.classes, "jpeg", self._listing.saliency)

    def _split_generators(self, dl_manager) -> dict:
        masks_only = self.builder_config.name == features.MASKS
        return {split: self._generate_examples(split) for split in (self._listing.masks if masks_only else self._listing.photos)}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        photos = self._listing.photos[split]
        with progress(f"building {self.builder_config.name} of {split}", len(photos), unit="photo") as bar:
            for photo, kept in pictures.read(self._listing, split, self._work):
                yield self._example(photo, kept)
                bar.advance(1)

    def _example(self, photo: Photo, kept: dict) -> tuple[str, dict]:
        if self.builder_config.name == features.MASKS:
            return photo.name, {"id": photo.name, "segmentation": kept["mask"]}
        example = {"id": photo.name, "image": photo.image.read_bytes(), "labels": photo.labels, "size": np.array(kept["size"], np.int32)}
        return photo.name, example | ({"saliency": kept["saliency"]} if self._listing.saliency else {})


class VocFolder(_OfListing, skip_registration=True):
    """See `data.voc_folder`."""


class Voc2012Wsss(_OfListing, skip_registration=True):
    """See `data.voc2012`."""


class Coco2014Wsss(_OfListing, skip_registration=True):
    """See `data.coco2014`."""
