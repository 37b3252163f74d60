"""Pictures to look at: photos beside pseudo labels and predictions, and legends of colours."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auxseg_jax.pixel_labels import BACKGROUND, IGNORE, palette

_SIDE = 200  # Pixels of a picture's longer side.
_A_ROW = 2  # Photos, each of three pictures.
_GAP, _TEXT = 8, 16
_LEAST_WIDTH = 120  # A narrower picture has no room for names.
_INK, _PAPER = (0, 0, 0), (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One photo of a sheet.

    Attributes:
      name: its id.
      photo: uint8 RGB [H, W, 3].
      pseudo: pseudo labels, uint8 [H, W].
      prediction: uint8 [H, W].
    """

    name: str
    photo: np.ndarray
    pseudo: np.ndarray
    prediction: np.ndarray


def overlay(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Covers objects half with the colours of their labels, uint8 [H, W, 3]."""
    mixed = (photo.astype(np.uint16) + palette()[labels]) // 2
    return np.where(labels[..., None] > 0, mixed, photo).astype(np.uint8)


def cam(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Draws the largest CAM of each pixel in the colour of its class, uint8 [H, W, 3].

    Args:
      classes: uint8 [H, W], from 1.
      scores: uint8 [H, W]; how bright it is.
    """
    pixels = palette()[classes].astype(np.float32) * (scores[..., None] / 255)
    return pixels.astype(np.uint8)


def with_legend(picture: np.ndarray, labels: Collection[int], classes: Sequence[str]) -> np.ndarray:
    """Writes the names of classes with their colours below a picture, if it is wide enough.

    Args:
      picture: uint8 RGB [H, W, 3].
      labels: the labels that are named; background is left out.
      classes: names, background first.
    """
    names = {IGNORE: "no label"} | dict(enumerate(classes))
    width = picture.shape[1]
    text = max(_TEXT, width // 50)
    font = ImageFont.load_default(0.75 * text)
    places, x, y = [], _GAP // 2, _GAP // 2
    for label in sorted(set(labels) - {BACKGROUND}):
        length = text + round(font.getlength(names[label])) + _GAP
        if places and x + length > width:
            x, y = _GAP // 2, y + text
        places.append((x, y, label))
        x += length
    if not places or width < _LEAST_WIDTH:
        return picture
    strip = Image.new("RGB", (width, y + text + _GAP // 2), _PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, label in places:
        box = (x, y + text // 8, x + 5 * text // 8, y + 3 * text // 4)
        draw.rectangle(box, tuple(palette()[label].tolist()), _INK)
        draw.text((x + text, y), names[label], _INK, font)
    return np.concatenate([picture, np.asarray(strip)])


def draw(
    cells: Sequence[Image.Image], labels: Collection[int], classes: Sequence[str], title: str
) -> np.ndarray:
    """Lays pictures of `draw_one` out in rows below a title, with a legend of labels below.

    Returns:
      uint8 RGB [H, W, 3].
    """
    width = max(cell.size[0] for cell in cells) + _GAP
    rows = [cells[start : start + _A_ROW] for start in range(0, len(cells), _A_ROW)]
    heights = [max(cell.size[1] for cell in row) + _GAP for row in rows]
    top = _GAP + 2 * _TEXT
    sheet = Image.new("RGB", (width * len(rows[0]) + _GAP, top + sum(heights)), _PAPER)
    ImageDraw.Draw(sheet).text((_GAP, _GAP), title, _INK, ImageFont.load_default(_TEXT))
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * width, top + sum(heights[:number])))
    return with_legend(np.asarray(sheet), labels, classes)


def draw_one(entry: Entry) -> Image.Image:
    """Draws one photo: its name, and below it the photo, its pseudo labels and its prediction."""
    pictures = [
        entry.photo,
        overlay(entry.photo, entry.pseudo),
        overlay(entry.photo, entry.prediction),
    ]
    height, width = entry.photo.shape[:2]
    factor = _SIDE / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    cell = Image.new("RGB", (3 * size[0] + 2, size[1] + _TEXT), _PAPER)
    font = ImageFont.load_default(_TEXT - 5)
    ImageDraw.Draw(cell).text((0, 0), entry.name[:40], _INK, font)
    for k, picture in enumerate(pictures):
        cell.paste(Image.fromarray(picture).resize(size), (k * (size[0] + 1), _TEXT))
    return cell
