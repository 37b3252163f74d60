"""Segmentation of batches of whole photos: views, the dense CRF, and the maps to show."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid
from auxseg_jax.inference import cam as cam_lib
from auxseg_jax.inference import crf as crf_lib
from auxseg_jax.inference.views import views
from auxseg_jax.inference.windows import over_windows
from auxseg_jax.models.auxsegnet import final_predictions, normalize
from auxseg_jax.models.layers import resize_bilinear
from auxseg_jax.models.pairwise import Pairwise

SHOWN = ("overlay", "probabilities", "certainty", "initial", "saliency", "cam", "affinity")
"""What can be shown beside the labels."""


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views a prediction is the mean of: the config's `predict.*` or `post.*`.

    Attributes:
      scales: factors of the photo's size.
      flip: whether mirror images are seen, too.
      window: size of the windows that larger photos are seen through, pixels; 0: whole photos.
    """

    scales: Sequence[float]
    flip: bool
    window: int = 0


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a segmentation returns beside the labels.

    Attributes:
      names: any of SHOWN; initial, saliency, cam and affinity need a network that has them.
      point: (x, y) in pixels, for affinity.
    """

    names: Collection[str] = ()
    point: tuple[int, int] | None = None


def probabilities(
    network: nn.Module,
    params: dict,
    image: Float[Array, "B H W 3"],
    inside: Bool[Array, "B H W"],
    grid: Grid,
    seen: Views,
) -> dict[str, Array]:
    """Returns predictions for a batch of whole photos at their size, means over views.

    Returns:
      {"seg": class probabilities [B, H, W, C+1], "sal": probability of being salient [B, H, W, 1],
      "initial": what "seg" was before it was refined}, the last two if the network has them.
    """
    size = image.shape[1:3]
    activation = {"seg": jax.nn.softmax, "sal": jax.nn.sigmoid, "initial": jax.nn.softmax}
    scores: dict[str, list[Array]] = {task: [] for task in activation}
    variables = {"params": network.cast(params)}

    def logits_of(image: Array, inside: Array) -> dict[str, Array]:
        outputs = network.apply(variables, image, inside=inside)
        found = final_predictions(outputs)
        if "refined" in outputs["seg"]:
            found["initial"] = outputs["seg"]["initial"]
        return found

    for view, view_inside, unmirror in views(image, inside, seen.scales, seen.flip, grid):
        found = over_windows(logits_of, view, view_inside, window=seen.window, grid=grid)
        for task, logits in found.items():
            scores[task].append(activation[task](resize_bilinear(unmirror(logits), size)))
    return {task: sum(values) / len(values) for task, values in scores.items() if values}


def segment(
    params: dict,
    batch: Mapping[str, Array],
    *,
    network: nn.Module,
    grid: Grid,
    seen: Views,
    crf: crf_lib.CrfOptions | None = None,
    show: Shown = Shown(),
    combine: Callable[[Array], Array] | None = None,
) -> dict[str, Array]:
    """Segments a batch of whole photos.

    Args:
      params: parameters of the network.
      batch: arrays of a batch of whole photos, see `data.loader`.
      network: the network.
      grid: sizes of the views.
      seen: the views.
      crf: options of `crf.segmentation`. None, or 0 iterations: the probabilities stay as they are.
      show: what is returned beside the labels.
      combine: changes the class probabilities [B, H, W, C+1] before the CRF.

    Returns:
      labels uint8 [B, H, W]; and what `show.names` has:
      overlay: photo uint8 [B, H, W, 3], RGB;
      probabilities: float32 [B, H, W, C+1];
      certainty: float32 [B, H, W], the largest of them;
      initial: uint8 [B, H, W], the labels before they are refined, if they are;
      saliency: float32 [B, H, W] in 0..1;
      cam: cam float32 [B, H, W, C] in 0..1, and present bool [B, C], the classes to which the
        classification branch gives more than 0.5;
      affinity: float32 [B, H, W], the row of the pairwise affinity for `point`, its largest entry
        1.
    """
    photo, inside, size = batch["image"], batch["inside"], batch["image"].shape[1:3]
    image = normalize(network, photo, inside)
    scores = probabilities(network, params, image, inside, grid, seen)
    if combine is not None:
        scores["seg"] = combine(scores["seg"])
    if crf and crf.iterations:
        sharpen = functools.partial(crf_lib.segmentation, options=crf)
        scores["seg"] = jax.vmap(sharpen)(photo.astype(jnp.float32), scores["seg"], inside)
    maps = _maps_of(scores, show.names)
    if "overlay" in show.names:
        maps["photo"] = photo
    if {"cam", "affinity"} & set(show.names):
        outputs = network.apply({"params": network.cast(params)}, image, inside=inside)
        if "cam" in show.names:
            maps["cam"] = cam_lib.normalize(resize_bilinear(outputs["cam"], size))
            maps["present"] = jax.nn.sigmoid(outputs["cls_logits"]) > 0.5
        if "affinity" in show.names:
            cells = outputs["cam"].shape[1:3]
            maps["affinity"] = _row_at(outputs["affinity"], show.point, cells, size)
    return maps


def _maps_of(scores: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
    """Returns the labels, and what of the probabilities is shown."""
    maps = {"labels": scores["seg"].argmax(-1).astype(jnp.uint8)}
    if "probabilities" in names:
        maps["probabilities"] = scores["seg"]
    if "certainty" in names:
        maps["certainty"] = scores["seg"].max(-1)
    if "initial" in names and "initial" in scores:
        maps["initial"] = scores["initial"].argmax(-1).astype(jnp.uint8)
    if "saliency" in names and "sal" in scores:
        maps["saliency"] = scores["sal"][..., 0]
    return maps


def _row_at(
    affinity: Pairwise, point: tuple[int, int], cells: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "B H W"]:
    """Returns the row of the affinity for the cell that holds a pixel, its largest entry 1."""
    column, line = (
        min(int(p * n / s), n - 1) for p, n, s in zip(point, cells[::-1], size[::-1], strict=True)
    )
    row = affinity.row(line * cells[1] + column).reshape(-1, *cells, 1)
    row = row / row.max((1, 2, 3), keepdims=True)
    return resize_bilinear(row, size)[..., 0]
