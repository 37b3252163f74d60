"""Test-time augmentation: the views of a batch of whole photos, scaled and mirrored."""

from collections.abc import Callable, Iterator, Sequence

from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid
from auxseg_jax.models.layers import resize_bilinear, resize_nearest


def views(
    image: Array, inside: Array, scales: Sequence[float], flip: bool, grid: Grid
) -> Iterator[tuple[Array, Array, Callable[[Array], Array]]]:
    """Yields each view as (image, inside, unmirror).

    Args:
      image: [B, H, W, 3].
      inside: bool [B, H, W], photo and not padding.
      scales: factors of the size; each goes to the closest size of `grid`.
      flip: whether mirror images are seen, too.
      grid: sizes that suit the network.

    Yields:
      image and inside of the view, and a function that turns its maps [B, h, w, ...] the right way
      round again.
    """
    size = image.shape[1:3]
    for scale in scales:
        scaled, scaled_inside = image, inside
        target = tuple(grid.nearest(n * scale) for n in size)
        if target != size:
            scaled, scaled_inside = resize_bilinear(image, target), resize_nearest(inside, target)
        yield scaled, scaled_inside, lambda x: x
        if flip:
            yield scaled[:, :, ::-1], scaled_inside[:, :, ::-1], lambda x: x[:, :, ::-1]
