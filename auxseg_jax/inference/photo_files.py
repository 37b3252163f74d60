"""Photo files as a source for `PhotoReader`."""

import copy
import math
from collections.abc import Collection, Sequence
from typing import Any

from etils import epath

from auxseg_jax.data import features, photo_names
from auxseg_jax.files.terminal import progress


class PhotoFiles:
    """The photos that can be read among some files; ids are the file names without ending.

    Args:
      paths: the files.
      megapixels: larger photos are scaled down to it.

    Attributes:
      ids: of the photos that can be read.
      sizes: (H, W) of the photos that can be read, as they are given; the source holds these.
      faults: a line for each of the others.
      scaled: {id: (H, W) of the file} of the photos that are scaled down.

    Raises:
      UserError: two files have one id.
    """

    def __init__(self, paths: Sequence[epath.PathLike], megapixels: float = math.inf):
        self._paths, self.ids, self.sizes, self.faults = [], [], [], []
        self.scaled: dict[str, tuple[int, int]] = {}
        stems = photo_names.by_stem(paths)
        with progress("reading photos", len(stems), unit="photo") as bar:
            for path in stems.values():
                try:
                    path.name.encode()
                    size = features.check_image(path.read_bytes())
                    smaller = features.size_within(size, megapixels)
                    if smaller != size:
                        self.scaled[path.stem] = size
                    self.sizes.append(smaller)
                    self._paths.append(path)
                    self.ids.append(path.stem)
                except UnicodeEncodeError:
                    self.faults.append(f"{path}: its name is not in UTF-8; rename it")
                except (OSError, ValueError) as error:
                    self.faults.append(f"{path}: {error}")
                bar.advance(1)

    def without(self, names: Collection[str]) -> "PhotoFiles":
        """Returns the source without some of its photos."""
        rest, left_out = copy.copy(self), set(names)
        kept = [k for k, name in enumerate(self.ids) if name not in left_out]
        for attribute in ("_paths", "ids", "sizes"):
            setattr(rest, attribute, [getattr(self, attribute)[k] for k in kept])
        return rest

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._paths[index]
        data = path.read_bytes()
        if path.stem in self.scaled:
            data = features.scale_image(data, self.sizes[index])
        return {"id": path.stem.encode(), "image": data}
