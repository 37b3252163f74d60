"""Photo files as a source for `PhotoReader`."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from auxseg_jax.data import features, listing
from auxseg_jax.files.terminal import progress


class PhotoFiles:
    """The photos that can be read among some files; ids are the file names without ending.

    Args:
      paths: the files.

    Attributes:
      sizes: (H, W) of the photos that can be read; the source holds these.
      faults: a line for each of the others.

    Raises:
      UserError: two files have one id.
    """

    def __init__(self, paths: Sequence[epath.PathLike]):
        self._paths, self.sizes, self.faults = [], [], []
        stems = listing.by_stem(paths)
        with progress("reading photos", len(stems), unit="photo") as bar:
            for path in stems.values():
                try:
                    path.name.encode()
                    self.sizes.append(features.check_image(path.read_bytes()))
                    self._paths.append(path)
                except UnicodeEncodeError:
                    self.faults.append(f"{path}: its name is not in UTF-8; rename it")
                except (OSError, ValueError) as error:
                    self.faults.append(f"{path}: {error}")
                bar.advance(1)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._paths[index]
        return {"id": path.stem.encode(), "image": path.read_bytes()}
