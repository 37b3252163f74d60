"""Class activation maps: normalised, over several scales and mirrored."""

from collections.abc import Callable, Sequence

import jax

from auxseg_jax.grid import Grid
from auxseg_jax.models.layers import resize_bilinear, resize_nearest, views


def normalize(cam: jax.Array) -> jax.Array:
    """relu(cam) / (spatial maximum + 1e-5), per photo and class. cam [B, h, w, C] -> 0..1."""
    cam = jax.nn.relu(cam)
    return cam / (cam.max((1, 2), keepdims=True) + 1e-5)


def multi_scale(
    cam_of: Callable[[jax.Array, jax.Array], jax.Array],
    image: jax.Array,
    inside: jax.Array,
    size: tuple[int, int],
    *,
    scales: Sequence[float],
    flip: bool,
    grid: Grid,
) -> jax.Array:
    """Normalised mean CAM [B, *size, C] over scales and, if `flip`, their mirror images.

    Args:
      cam_of: (image [B, H, W, 3], inside bool [B, H, W]) -> raw class scores [B, h, w, C].
      image, inside: a batch of whole photos, see `data.loader`.
      size: (h, w) of the result.
      scales: factors of the photo's size.
      flip: whether mirror images are seen too.
      grid: sizes of the views.
    """
    total = 0.0
    for view, view_inside, unmirror in views(image, inside, scales, flip, grid):
        total += resize_bilinear(unmirror(jax.nn.relu(cam_of(view, view_inside))), size)
    return normalize(total * resize_nearest(inside, size)[..., None])
