"""The names of photos: ids, endings, and which file of a folder an id means."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from etils import epath

from auxseg_jax.errors import UserError, fault

_PHOTO_ENDING = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_OTHER_ENDING = re.compile(r"\.(webp|bmp|tiff?|gif|heic|heif|avif|jfif)$", re.IGNORECASE)


def is_photo(name: str) -> bool:
    """Returns whether a file's name ends as a photo's does."""
    return _PHOTO_ENDING.search(name) is not None


def is_other_picture(name: str) -> bool:
    """Returns whether a file's name ends as a picture's does that is no photo here."""
    return _OTHER_ENDING.search(name) is not None


def photo_id(name: str) -> str:
    """Returns the id of a photo: its file's name without ending, composed."""
    return compose(_PHOTO_ENDING.sub("", name))


def compose(name: str) -> str:
    """Returns a name in Unicode's NFC. Some file systems and programs decompose letters (NFD)."""
    return unicodedata.normalize("NFC", name)


def is_id(name: str) -> bool:
    """Returns whether `name` is a plain file name in UTF-8, without folder; blanks may part it."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # Python's sign of other bytes.
        return False
    in_folder = "/" in name or "\\" in name or name in ("", ".", "..")
    return not in_folder and is_one_field(name)


def is_one_field(name: str) -> bool:
    """Returns whether a line of a list, parted by tabs, can hold `name`."""
    return name.strip() == name and "\t" not in name and len(name.splitlines()) == 1


def by_stem(paths: Iterable[epath.PathLike]) -> dict[str, epath.Path]:
    """Returns {name without ending: path}.

    Raises:
      UserError: what is made of two of the photos would be written to one file.
    """
    stems: dict[str, epath.Path] = {}
    for path in map(epath.Path, paths):
        if path.stem in stems:
            raise UserError(
                f"{path} and {stems[path.stem]} would both be written to {path.stem}.png"
            )
        stems[path.stem] = path
    return stems


def file_names(path: epath.Path) -> set[str]:
    """Returns the names of the files in a folder, without links that lead nowhere."""
    return {p.name for p in path.iterdir() if p.exists()} if path.is_dir() else set()


def files_by_id(folder: epath.Path, is_wanted: Callable[[str], bool]) -> dict[str, list[str]]:
    """Returns {id: names of its files, sorted} of the files whose names are wanted."""
    files: dict[str, list[str]] = {}
    for name in sorted(filter(is_wanted, file_names(folder))):
        stem = compose(name.rpartition(".")[0])
        files.setdefault(stem, []).append(name)
    return files


def one_file(files: Mapping[str, Sequence[str]], name: str, folder: epath.Path) -> str | None:
    """Returns the file of an id, or None; reports a fault if there are several."""
    found = files.get(name, ())
    if len(found) > 1:
        fault(
            f"{name}: {folder.name} holds {' and '.join(found)}; an id is of one file, rename one"
        )
    return found[0] if found else None
