"""What a prepared data set holds, <prepared copy>/dataset.json: read at every start, and small."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from auxseg_jax.errors import UserError
from auxseg_jax.files import storage

_FILE = "dataset.json"


@dataclasses.dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
      photos: how many there are.
      of_class: of each foreground class, how many photos have it.
      without_class: how many have none.
      has_masks: whether there are pixel labels.
    """

    photos: int
    of_class: tuple[int, ...]
    without_class: int
    has_masks: bool


@dataclasses.dataclass(frozen=True)
class About:
    """A prepared data set.

    Attributes:
      builder: name of the builder.
      digest: hash of its content, by which a run knows its data wherever they lie.
      classes: names, background first.
      planes: names of the planes that its photos bring.
      splits: {name: what it holds}.
      contradictions: where its parts contradict one another, see `data.content`.
      remarks: what else a user should know.
    """

    builder: str
    digest: str
    classes: tuple[str, ...]
    planes: tuple[str, ...]
    splits: Mapping[str, Split]
    contradictions: tuple[str, ...]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns what a person should see of it before a run."""
        text = [f"{self.builder}: {len(self.classes) - 1} classes; planes: {_listed(self.planes)}"]
        for name, split in self.splits.items():
            counts = zip(self.classes[1:], split.of_class, strict=True)
            text.append(
                f"  {name}: {split.photos} photos, {'with' if split.has_masks else 'without'} "
                f"masks; {', '.join(f'{count} {label}' for label, count in counts)}; "
                f"{split.without_class} without a class"
            )
        notes = [*self.contradictions, *self.remarks]
        for name, split in self.splits.items():
            counts = zip(self.classes[1:], split.of_class, strict=True)
            if absent := [label for label, count in counts if not count]:
                notes.append(f"{name} has no photo of {_listed(absent[:9])}")
        return [*text, *(f"  note: {note}" for note in notes)]


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"


def exists(directory: epath.PathLike) -> bool:
    """Returns whether a folder says what it holds; copies of versions before 0.4 do not."""
    return (epath.Path(directory) / _FILE).exists()


def write(directory: epath.Path, content: About) -> None:
    """Writes it into the folder of a prepared copy."""
    storage.write_json(directory / _FILE, dataclasses.asdict(content))


def read(directory: epath.PathLike) -> About:
    """Reads it from the folder of a prepared copy.

    Raises:
      UserError: the folder is no prepared copy, or the file is damaged.
    """
    directory = epath.Path(directory).expanduser()
    if not exists(directory):
        raise UserError(
            f"{directory} is no prepared data set: it has no {_FILE}. "
            "`auxseg prepare` makes one, and prints its folder"
        )
    fields: Any = storage.read_json(directory / _FILE)
    try:
        splits = {
            name: Split(**split | {"of_class": tuple(split["of_class"])})
            for name, split in fields.pop("splits").items()
        }
        lists = {
            name: tuple(fields.pop(name))
            for name in ("classes", "planes", "contradictions", "remarks")
        }
        return About(**fields, **lists, splits=splits)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{directory / _FILE} is damaged ({error!r})") from error
