"""Pseudo labels of a batch of photos: the initial ones from CAMs, and their update by a stage."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, UInt8

from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid
from auxseg_jax.inference import cam as cam_lib
from auxseg_jax.inference import crf as crf_lib
from auxseg_jax.inference.segmentation import Views
from auxseg_jax.inference.windows import over_windows
from auxseg_jax.models.auxsegnet import final_predictions, normalize
from auxseg_jax.models.layers import resize_bilinear, resize_nearest
from auxseg_jax.models.pairwise import Pairwise
from auxseg_jax.pixel_labels import IGNORE

Maps = dict[str, Array]
"""{"segmentation": labels uint8 [B, H, W], "saliency": uint8 [B, H, W], 255 is salient}.

The initial labels also have "cam_class", the class of the largest CAM, uint8 [B, H, W], and
"cam_score", that CAM, uint8 [B, H, W].
"""

Fuse = Callable[[Array, Array, Array], Array]
"""(CAM [B, H, W, C], saliency [B, H, W], labels [B, C]) -> labels uint8 [B, H, W]."""

Walk = Callable[[Array, Pairwise], Array]
"""(CAM [B, h, w, C], affinity) -> CAM [B, h, w, C]."""


def initial_labels(
    params: dict,
    batch: Mapping[str, Array],
    *,
    network: Any,
    grid: Grid,
    seen: Views,
    fuse: Fuse,
) -> Maps:
    """Labels photos by the classifier's CAMs and the given saliency.

    Args:
      params: parameters of the classifier; the dense branches are not run.
      batch: arrays of a batch of whole photos, see `data.loader`.
      network: an `AuxSegNet`.
      grid: sizes of the views.
      seen: views of the CAM, the config's `cam.*`.
      fuse: `pseudo.fuse.fuse` with its options.
    """
    size = batch["image"].shape[1:3]
    cam_of = _cam_function(network, params)
    image = normalize(network, batch["image"], batch["inside"])
    cam = _mean_cam(cam_of, image, batch["inside"], size, seen, grid)
    saliency = _given_saliency(batch, cam)
    labels = fuse(cam, saliency, batch["labels"])
    cam *= batch["labels"][:, None, None, :]
    return {
        "segmentation": labels,
        "saliency": _to_uint8(saliency),
        "cam_class": (cam.argmax(-1) + 1).astype(jnp.uint8),
        "cam_score": _to_uint8(cam.max(-1)),
    }


def classifier_cam(
    params: dict, batch: Mapping[str, Array], *, network: Any, grid: Grid, seen: Views
) -> dict[str, Array]:
    """Returns the first classifier's share of the CAM that walks, which no stage changes.

    Args:
      params: parameters of the classifier.
      batch: arrays of a batch of whole photos, see `data.loader`.
      network: an `AuxSegNet`.
      grid: sizes of the views.
      seen: views of the updated CAM.

    Returns:
      {"cam": float32 [B, h, w, C] in 0..1 on the feature grid, "labels": those of the batch}.
    """
    cam_of = _cam_function(network, params)
    image = normalize(network, batch["image"], batch["inside"])
    cells = jax.eval_shape(cam_of, image, batch["inside"]).shape[1:3]
    cam = _mean_cam(cam_of, image, batch["inside"], cells, seen, grid)
    return {"cam": cam, "labels": batch["labels"]}


@dataclasses.dataclass(frozen=True)
class UpdateOptions:
    """How a stage updates the labels: the config's `label_update.*`.

    Attributes:
      scales: views of the CAM.
      flip: views of the CAM.
      window: size of the windows through which the dense branches and the affinity see a larger
        photo, pixels; 0: whole photos.
      classifier_weight: share of the first classifier's CAM in the one that walks; the rest is the
        stage's. A stage's classifier has seen each photo's label so often that its CAMs follow the
        labels' mistakes.
      rescale: what is done to each class's CAM after its walk, before it is fused. "maximum": it is
        scaled to a maximum of 1 again. "histogram": it gets the values that it had before, and the
        walk only decides where they are (`cam.match_histogram`). "none": nothing.
      saliency_weight: w, the share of the network's saliency.
      veto: a label becomes 255 where the network's own segmentation, restricted to background and
        the classes of the photo's image label, gives it a probability below this; 0 turns that off.
    """

    scales: Sequence[float]
    flip: bool
    window: int
    classifier_weight: float
    rescale: str
    saliency_weight: float
    veto: float


def propagate(
    params: dict,
    batch: Mapping[str, Array],
    *,
    network: Any,
    grid: Grid,
    options: UpdateOptions,
    walk: Walk,
) -> tuple[dict[str, Array], Float[Array, "B h w C"], Float[Array, "B h w C"]]:
    """Returns what a stage predicts, the CAM, and the CAM after its random walk.

    Args:
      params: parameters of the stage.
      batch: arrays of a batch of whole photos, see `data.loader`; with a `classifier_weight` also
        "classifier_cam", see there.
      network: the `AuxSegNet`.
      grid: sizes of the views.
      options: see `UpdateOptions`.
      walk: `random_walk` with its options.

    Returns:
      {"seg", "sal"} logits [B, h, w, _], the last if the network has that task; the CAM; and the
      CAM after its walk, rescaled. Without an affinity nothing walks.
    """
    variables = {"params": network.cast(params)}
    inside = batch["inside"]
    image = normalize(network, batch["image"], inside)
    cells = tuple(map(grid.cells, image.shape[1:3]))
    seen = Views(options.scales, options.flip)
    weight = options.classifier_weight
    cam = weight * batch["classifier_cam"] if weight else 0.0
    if weight < 1:
        cam_of = _cam_function(network, params)
        cam += (1 - weight) * _mean_cam(cam_of, image, inside, cells, seen, grid)

    def see(image: Array, inside: Array, cam: Array) -> dict[str, Array]:
        outputs = network.apply(variables, image, inside=inside)
        found = final_predictions(outputs)
        if "affinity" in outputs:
            found["walked"] = walk(cam, outputs["affinity"])
        return found

    predictions = over_windows(see, image, inside, [cam], window=options.window, grid=grid)
    walked = predictions.pop("walked", cam)
    return predictions, cam, _rescale(walked, cam, resize_nearest(inside, cells), options.rescale)


def updated_labels(
    params: dict,
    batch: Mapping[str, Array],
    *,
    propagate: Callable[[dict, Mapping[str, Array]], tuple[dict[str, Array], Array, Array]],
    options: UpdateOptions,
    fuse: Fuse,
    crf: crf_lib.CrfOptions,
) -> Maps:
    """Labels photos by the network of a stage.

    CAM <- random walk of the CAM on the (cross-task) pairwise affinity; S <- CRF(w sigmoid(P_sal) +
    (1 - w) S0) with the given saliency S0; labels = fuse(CAM, S). Without the affinity the CAM
    stays, without the saliency task S is S0.

    Args:
      params: parameters of the stage.
      batch: arrays of a batch of whole photos, see `propagate`.
      propagate: `propagate` with its options.
      options: see `UpdateOptions`.
      fuse: `pseudo.fuse.fuse` with its options.
      crf: options of `crf.saliency`; with 0 iterations S is not sharpened.
    """
    size = batch["image"].shape[1:3]
    predictions, _, cam = propagate(params, batch)
    cam = resize_bilinear(cam, size)
    saliency = _given_saliency(batch, cam)
    if "sal" in predictions:
        predicted = resize_bilinear(jax.nn.sigmoid(predictions["sal"]), size)[..., 0]
        weight = options.saliency_weight
        saliency = weight * predicted + (1 - weight) * saliency
    if crf.iterations:
        sharpen = functools.partial(crf_lib.saliency, options=crf)
        photo = batch["image"].astype(jnp.float32)
        saliency = jax.vmap(sharpen)(photo, saliency, batch["inside"])
    labels = fuse(cam, saliency, batch["labels"])
    if options.veto:
        possible = jnp.pad(batch["labels"], ((0, 0), (1, 0)), constant_values=1) > 0
        logits = resize_bilinear(predictions["seg"], size)
        scores = jax.nn.softmax(logits, where=possible[:, None, None, :], axis=-1)
        labels = apply_veto(labels, scores, options.veto)
    return {"segmentation": labels, "saliency": _to_uint8(saliency)}


def _rescale(
    walked: Float[Array, "B h w C"],
    cam: Float[Array, "B h w C"],
    inside: Bool[Array, "B h w"],
    how: str,
) -> Float[Array, "B h w C"]:
    """Makes thresholds mean for a CAM that has walked what they mean for one that has not.

    A walk lowers the largest values and raises small ones. So, scaled to a maximum of 1 again, more
    of the photo than before is above a threshold, and all the more the further it goes.
    """
    walked = walked * inside[..., None]
    if how == "maximum":
        return cam_lib.normalize(walked)
    if how == "histogram":
        return cam_lib.match_histogram(walked, cam_lib.normalize(cam), inside)
    return walked


def apply_veto(
    labels: UInt8[Array, "B H W"], probabilities: Float[Array, "B H W C"], threshold: float
) -> UInt8[Array, "B H W"]:
    """Sets labels to 255 where their probability is below `threshold`."""
    index = jnp.where(labels == IGNORE, 0, labels).astype(jnp.int32)[..., None]
    probability = jnp.take_along_axis(probabilities, index, axis=-1)[..., 0]
    return jnp.where(probability < threshold, IGNORE, labels).astype(jnp.uint8)


def _mean_cam(
    cam_of: Callable,
    image: Float[Array, "B H W 3"],
    inside: Bool[Array, "B H W"],
    size: tuple[int, int],
    seen: Views,
    grid: Grid,
) -> Float[Array, "B h w C"]:
    options = {"scales": seen.scales, "flip": seen.flip, "grid": grid}
    return cam_lib.multi_scale(cam_of, image, inside, size, **options)


def _given_saliency(
    batch: Mapping[str, Array], cam: Float[Array, "B H W C"]
) -> Float[Array, "B H W"]:
    """Returns S0: the given map, else the largest CAM of the photo's classes.

    Without maps, `fuse` makes a class of a CAM above both its thresholds, background of one below
    both, and 255 of what is between.
    """
    if "saliency" in batch:
        return batch["saliency"]
    return (cam * batch["labels"][:, None, None, :]).max(-1)


def _cam_function(network: Any, params: dict) -> Callable[[Array, Array], Float[Array, "B h w C"]]:
    variables = {"params": network.cast(params)}
    return lambda image, inside: network.apply(variables, image, inside=inside, dense=False)["cam"]


def _to_uint8(probability: Array) -> Array:
    return jnp.round(255 * probability).astype(jnp.uint8)
