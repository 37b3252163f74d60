"""Photo files whose image labels are known, because they belong to the data of a run."""

from typing import Any

import ml_collections

from auxseg_jax.data import about, dataset
from auxseg_jax.data.photo_names import photo_id
from auxseg_jax.errors import UserError
from auxseg_jax.files.terminal import first_line, say
from auxseg_jax.inference.photo_files import PhotoFiles
from auxseg_jax.runs.workdir import Workdir


class LabelledPhotos:
    """Those of some files that are photos of a run's data, as a source for `PhotoReader`.

    A file is the photo of its id if its content is the same.

    Args:
      config: the config of the run.
      workdir: the run.
      source: the files.

    Attributes:
      ids: of the photos that are known, as `source` has them.
      sizes: (H, W) of each.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Workdir,
        source: PhotoFiles,
    ):
        self.ids: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._examples: list[tuple[Any, int]] = []
        wanted = {photo_id(name): place for place, name in enumerate(source.ids)}
        try:
            data = dataset.open_copy(workdir.data_state(), **config.data)
            if data is None:
                say("no image labels are used: the prepared copy of the run's data is gone")
                return
            workdir.check_data(data)
        except (UserError, OSError) as error:
            say(f"no image labels are used: {first_line(error)}")
            return
        said = about.read(data.directory).splits
        for split in dict.fromkeys((data.train_split, data.val_split)):
            if not any(said[split].of_class):  # As of VOC's test: nothing is known of them.
                continue
            photos = data.photos(split)
            for index, (name, size) in enumerate(
                zip(data.ids(split), data.sizes(split), strict=True)
            ):
                place = wanted.get(name)
                if place is None or source[place]["image"] != photos[index]["image"]:
                    continue
                self.ids.append(source.ids[place])
                self.sizes.append(size)
                self._examples.append((photos, index))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        photos, place = self._examples[index]
        return photos[place] | {"id": self.ids[index].encode()}
