"""TFDS builders of the data sets that come as files.

They differ in how their lists are read, not in what is built.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from auxseg_jax.data import features, pictures
from auxseg_jax.data.listing import Listing
from auxseg_jax.files.terminal import progress


class _ListingBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds the photos or the masks of a listing, from what `pictures.check` left in `work`."""

    VERSION = tfds.core.Version("2.1.0")
    BUILDER_CONFIGS = features.builder_configs()

    def __init__(self, *, listing: Listing, work: epath.PathLike, **kwargs):
        self._listing, self._work = listing, work
        super().__init__(**kwargs)

    @property
    def _builds_masks(self) -> bool:
        return self.builder_config.name == features.MASKS

    def _info(self) -> tfds.core.DatasetInfo:
        return features.dataset_info(self, self._listing.classes, "jpeg", self._listing.planes)

    def _split_generators(self, dl_manager) -> dict:
        splits = self._listing.masks if self._builds_masks else self._listing.photos
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        label = f"building {self.builder_config.name} of {split}"
        with progress(label, len(self._listing.photos[split]), unit="photo") as bar:
            for checked in pictures.read(self._listing, split, self._work):
                if checked.mask is not None or not self._builds_masks:
                    yield checked.photo.name, self._example(checked)
                bar.advance(1)

    def _example(self, checked: pictures.CheckedPhoto) -> dict:
        photo = checked.photo
        if self._builds_masks:
            return {"id": photo.name, "segmentation": checked.mask}
        return {
            "id": photo.name,
            "image": checked.image or photo.image.read_bytes(),
            "labels": photo.labels,
            "size": np.array(checked.size, np.int32),
            **checked.planes,
        }


class VocFolder(_ListingBuilder, skip_registration=True):
    """See `data.voc_folder`."""


class Voc2012Wsss(_ListingBuilder, skip_registration=True):
    """See `data.voc2012`."""


class Coco2014Wsss(_ListingBuilder, skip_registration=True):
    """See `data.coco2014`."""
