"""Pages of one file that open without a network: templates, and pictures as data."""

import base64
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np

from auxseg_jax.files import images
from auxseg_jax.pixel_labels import palette

_WIDTH = 240
"""Pixels of a picture's longer side."""


class Picture(NamedTuple):
    """A picture of a page.

    Attributes:
      src: its content as a data URI.
      width: pixels.
      height: pixels.
      caption: a few words below it.
      alt: what is seen, for people who do not see it.
    """

    src: str
    width: int
    height: int
    caption: str
    alt: str


def render(template: str, **content: Any) -> str:
    """Fills a template; text is escaped.

    Args:
      template: name of a file in `templates`.
      **content: its variables; one that it uses and does not get is an error.
    """
    return _environment().get_template(template).render(**content)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("auxseg_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def photo(pixels: np.ndarray, caption: str, alt: str) -> Picture:
    """Returns uint8 RGB [H, W, 3] or grey [H, W] as a picture."""
    small = _small(pixels, cv2.INTER_AREA)
    if small.ndim == 2:
        small = np.repeat(small[..., None], 3, 2)
    return _picture("jpeg", images.encode_jpeg(small, quality=80), small, caption, alt)


def numbers(levels: np.ndarray) -> str:
    """Returns uint8 [H, W] as a data URI from which a script reads the numbers."""
    return _uri("png", images.encode_png(levels))


def _small(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = min(_WIDTH / max(height, width), 1.0)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(pixels, size, interpolation=interpolation)


def _picture(form: str, data: bytes, pixels: np.ndarray, caption: str, alt: str) -> Picture:
    height, width = pixels.shape[:2]
    return Picture(_uri(form, data), width, height, caption, alt)


def _uri(form: str, data: bytes) -> str:
    return f"data:image/{form};base64,{base64.b64encode(data).decode()}"


def legend(classes: Sequence[str]) -> list[dict[str, str]]:
    """Returns {name, colour} of each label, background first, and of 255."""
    names = [*enumerate(classes), (255, "no label")]
    return [{"name": n, "colour": f"#{bytes(palette()[k]).hex()}"} for k, n in names]
