"""Pseudo labels of a whole split: the initial ones from CAMs, and their update by the network of a stage.

Both write <output>/segmentation/<id>.png (indexed, 255 ignore) and <output>/saliency/<id>.png (grey, 255 = salient); the initial
ones also <output>/cam_class/<id>.png (the class whose CAM is largest, indexed) and <output>/cam_score/<id>.png (that CAM, grey).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh

from auxseg_jax import files, passes
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.grid import Grid
from auxseg_jax.models.auxsegnet import colours, final
from auxseg_jax.models.layers import resize_bilinear, resize_nearest
from auxseg_jax.pseudo import cam as cam_lib
from auxseg_jax.pseudo import crf as crf_lib
from auxseg_jax.pseudo.fuse import fuse
from auxseg_jax.pseudo.random_walk import random_walk


def initial_labels(params: dict, batch: dict, *, network: nn.Module, grid: Grid, cam: Any, fusion: Any) -> dict[str, jax.Array]:
    """Labels of a batch of whole photos from the classifier's CAMs and the off-the-shelf saliency.

    Args:
      params, network: the classifier (its dense branches are not run).
      batch: see `data.loader`.
      grid: sizes of the views.
      cam: `scales` and `flip` of `cam.multi_scale`.
      fusion: options of `fuse`.
    """
    size = batch["image"].shape[1:3]
    maps = cam_lib.multi_scale(_cam_of(network, params), batch["image"], batch["inside"], size, grid=grid, **cam)
    saliency = _given_saliency(batch, maps)
    labels = fuse(maps, saliency, batch["labels"], **fusion)
    maps *= batch["labels"][:, None, None, :]
    best = {"cam_class": (maps.argmax(-1) + 1).astype(jnp.uint8), "cam_score": _to_uint8(maps.max(-1))}
    return {"segmentation": labels, "saliency": _to_uint8(saliency)} | best


def updated_labels(
    params: dict,
    batch: dict,
    *,
    network: nn.Module,
    grid: Grid,
    walk: Any,
    fusion: Any,
    crf: Any,
    scales: Sequence[float],
    flip: bool,
    classifier_weight: float,
    renormalize: bool,
    saliency_weight: float,
    veto: float,
) -> dict[str, jax.Array]:
    """Labels of a batch of whole photos by the network of a stage.

    CAM <- random walk of the CAM on the (cross-task) pairwise affinity; S <- CRF(w sigmoid(P_sal) + (1 - w) S0)
    with the off-the-shelf S0 (see `_given_saliency`); labels = fuse(CAM, S). Without the affinity the CAM stays, without the saliency task S is S0.

    Args:
      params: {"stage": of the stage, "classifier": of the classifier phase}, both of `network`.
      network: of both.
      batch: see `data.loader`.
      grid: sizes of the views.
      walk: options of `random_walk`.
      fusion: options of `fuse`.
      crf: options of `crf.saliency`; with 0 iterations S is not sharpened.
      scales, flip: views of the CAM.
      classifier_weight: share of the first classifier's CAM in the one that walks; the rest is the stage's, 0 in the paper.
        A stage's classifier has seen each photo's label so often that its CAMs follow the labels' mistakes.
      renormalize: the CAM is scaled to a maximum of 1 again before it is fused.
      saliency_weight: w, 0.5 in the paper.
      veto: a label becomes 255 where the network's own segmentation, restricted to background and the classes of the
        photo's image label, gives it a probability below this; 0 turns that off.
    """
    size = batch["image"].shape[1:3]
    outputs = network.apply({"params": network.cast(params["stage"])}, batch["image"], inside=batch["inside"])
    cells = outputs["cam"].shape[1:3]
    maps = 0.0
    for phase, weight in (("stage", 1 - classifier_weight), ("classifier", classifier_weight)):
        if weight:
            cam_of = _cam_of(network, params[phase])
            maps += weight * cam_lib.multi_scale(cam_of, batch["image"], batch["inside"], cells, scales=scales, flip=flip, grid=grid)
    if "affinity" in outputs:
        maps = random_walk(maps, outputs["affinity"], **walk)
        maps *= resize_nearest(batch["inside"], cells)[..., None]
    if renormalize:
        maps = cam_lib.normalize(maps)
    maps = resize_bilinear(maps, size)
    saliency = _given_saliency(batch, maps)
    if "sal" in outputs:
        predicted = resize_bilinear(jax.nn.sigmoid(final(outputs["sal"])), size)[..., 0]
        saliency = saliency_weight * predicted + (1 - saliency_weight) * saliency
    if crf["iterations"]:
        photo = colours(network, batch["image"])
        saliency = jax.vmap(functools.partial(crf_lib.saliency, **crf))(photo, saliency, batch["inside"])
    labels = fuse(maps, saliency, batch["labels"], **fusion)
    if veto:
        possible = jnp.pad(batch["labels"], ((0, 0), (1, 0)), constant_values=1)[:, None, None, :] > 0
        scores = resize_bilinear(final(outputs["seg"]), size)
        labels = apply_veto(labels, jax.nn.softmax(scores, where=possible, axis=-1), veto)
    return {"segmentation": labels, "saliency": _to_uint8(saliency)}


def apply_veto(labels: jax.Array, probabilities: jax.Array, threshold: float) -> jax.Array:
    """Labels [B, H, W] uint8 with 255 where probabilities [B, H, W, C+1] give the label less than `threshold`."""
    index = jnp.where(labels == files.IGNORE, 0, labels).astype(jnp.int32)[..., None]
    probability = jnp.take_along_axis(probabilities, index, axis=-1)[..., 0]
    return jnp.where(probability < threshold, files.IGNORE, labels).astype(jnp.uint8)


def write_labels(name: str, labels_of: Callable[[dict, dict], dict], params: dict, reader: PhotoReader, output: epath.PathLike, mesh: Mesh) -> None:
    """One pass over the photos of `reader`: writes the maps of `labels_of`, of the functions above by `passes.jit`, under `output`."""

    def write(key: str, row: dict[str, np.ndarray]) -> None:
        files.write_pseudo_labels(output, key, row["segmentation"], row["saliency"])
        if "cam_class" in row:
            files.write_label_png(epath.Path(output) / "cam_class" / f"{key}.png", row["cam_class"])
            files.write_grey_png(epath.Path(output) / "cam_score" / f"{key}.png", row["cam_score"])

    passes.run(name, labels_of, params, reader, write, mesh)


def _given_saliency(batch: dict, maps: jax.Array) -> jax.Array:
    """S0 [B, H, W]: the off-the-shelf map; in a data set without any, the largest CAM of the photo's classes.

    Then `fuse` makes a class of a CAM above both its thresholds, background of one below both, and 255 of what is between.
    """
    return batch["saliency"] if "saliency" in batch else (maps * batch["labels"][:, None, None, :]).max(-1)


def _cam_of(network: nn.Module, params: dict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda image, inside: network.apply({"params": network.cast(params)}, image, inside=inside, dense=False)["cam"]


def _to_uint8(probability: jax.Array) -> jax.Array:
    return jnp.round(255 * probability).astype(jnp.uint8)
