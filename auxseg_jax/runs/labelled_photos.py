"""Photo files whose image labels are known, because they belong to the data of a run."""

from collections.abc import Sequence
from typing import Any

import ml_collections
from etils import epath

from auxseg_jax.data import dataset
from auxseg_jax.data.photo_names import photo_id
from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import first_line, say
from auxseg_jax.inference.photo_files import PhotoFiles


class LabelledPhotos:
    """Those of some files that are photos of a run's data, as a source for `PhotoReader`.

    Args:
      config: the config of the run.
      paths: the files.
      source: those of them that can be read.

    Attributes:
      ids: {id: (split, index) in the data}.
      sizes: (H, W) of each.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, paths: Sequence[epath.Path], source: PhotoFiles
    ):
        self.ids: dict[str, tuple[str, int]] = {}
        self.sizes: list[tuple[int, int]] = []
        root = config.data.get("root")
        folder = epath.Path(root).expanduser().resolve() if root else None
        inside = {path.stem for path in paths if folder and folder in path.resolve().parents}
        wanted = {photo_id(stem): stem for stem in inside & set(source.ids)}
        if not wanted:
            return
        try:
            data = dataset.prepare(**config.data)
        except UserError as error:
            say(f"image labels are not used, for the data cannot be read: {first_line(error)}")
            return
        self._photos = {}
        for split in dict.fromkeys((data.train_split, data.val_split)):
            self._photos[split], sizes = data.photos(split), data.sizes(split)
            for index, size in enumerate(sizes):
                name = self._photos[split][index]["id"].decode()
                if name in wanted and size == source.size_of(wanted[name]):
                    self.ids[wanted[name]] = split, index
                    self.sizes.append(size)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, (split, place) = list(self.ids.items())[index]
        return self._photos[split][place] | {"id": name.encode()}
