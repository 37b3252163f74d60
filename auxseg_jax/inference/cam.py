"""Class activation maps: normalised, over several scales and mirrored."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid
from auxseg_jax.inference.views import views
from auxseg_jax.models.layers import resize_bilinear, resize_nearest


def normalize(cam: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """Returns relu(cam) / (spatial maximum + 1e-5) of each photo and class, in 0..1."""
    cam = jax.nn.relu(cam)
    return cam / (cam.max((1, 2), keepdims=True) + 1e-5)


def match_histogram(
    cam: Float[Array, "B h w C"],
    reference: Float[Array, "B h w C"],
    inside: Bool[Array, "B h w"],
) -> Float[Array, "B h w C"]:
    """Returns the values of `reference` in the order of `cam`, of each photo and class.

    The position with the k-th largest value of `cam` gets the k-th largest of `reference`. So as
    much of the photo as there lies above any threshold.

    Args:
      cam: 0 or above.
      reference: 0 or above.
      inside: positions that count. The others are 0.
    """

    def flatten(x: Array) -> Array:
        return jnp.where(inside[..., None], x, -1).reshape(len(x), -1, x.shape[-1])

    order = jnp.argsort(flatten(cam), axis=1)
    values = jnp.sort(flatten(reference), axis=1)
    matched = jnp.put_along_axis(values, order, values, axis=1, inplace=False)
    return jax.nn.relu(matched).reshape(cam.shape)


def multi_scale(
    cam_of: Callable[[Array, Array], Array],
    image: Float[Array, "B H W 3"],
    inside: Bool[Array, "B H W"],
    size: tuple[int, int],
    *,
    scales: Sequence[float],
    flip: bool,
    grid: Grid,
) -> Float[Array, "B h w C"]:
    """Returns the normalised mean CAM over views.

    Args:
      cam_of: (image, inside) -> raw class scores [B, h', w', C] of a view.
      image: a batch of whole photos, see `data.loader`.
      inside: photo and not padding.
      size: (h, w) of the result.
      scales: see `views`.
      flip: see `views`.
      grid: see `views`.
    """
    total = 0.0
    for view, view_inside, unmirror in views(image, inside, scales, flip, grid):
        total += resize_bilinear(unmirror(jax.nn.relu(cam_of(view, view_inside))), size)
    return normalize(total * resize_nearest(inside, size)[..., None])
