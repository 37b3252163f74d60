"""What a stage makes of a labelled photo, step by step, for people to look at."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from auxseg_jax.arrays import Array
from auxseg_jax.inference import cam as cam_lib
from auxseg_jax.models.affinity import Pairwise
from auxseg_jax.models.layers import resize_bilinear, resize_nearest

_MOST_CELLS = 400
"""Of the coarse grid on which affinities are shown. A photo of VOC has ten times as many."""


def explain(
    params: dict,
    batch: Mapping[str, Array],
    *,
    predict: Callable[[dict, Mapping[str, Array]], dict[str, Array]],
    propagate: Callable[[dict, Mapping[str, Array]], tuple[dict[str, Any], Array, Array]],
) -> dict[str, Array]:
    """Returns the steps from CAM to prediction of a batch of labelled photos.

    Args:
      params: parameters of the stage.
      batch: arrays of a batch of whole photos, as `update.updated_labels` takes them.
      predict: `inference.segmentation.segment` with its options.
      propagate: `update.propagate` with its options.

    Returns:
      What `predict` returns; "cam_class", "cam_score", "walked_class" and "walked_score", of the
      CAM before and after the walk, uint8 [B, H, W]; and what `affinity_maps` returns.
    """
    outputs, *cams = propagate(params, batch)
    maps = predict(params, batch)
    for name, cam in zip(("cam", "walked"), cams, strict=True):
        cam = cam_lib.normalize(cam) * batch["labels"][:, None, None, :]
        cam = resize_bilinear(cam, batch["inside"].shape[1:3])
        maps[f"{name}_class"] = (cam.argmax(-1) + 1).astype(jnp.uint8)
        maps[f"{name}_score"] = jnp.round(255 * cam.max(-1)).astype(jnp.uint8)
    return maps | affinity_maps(outputs, batch["inside"])


def affinity_maps(outputs: Mapping[str, Any], inside: Bool[Array, "B H W"]) -> dict[str, Array]:
    """Returns what each cell of a coarse grid looks at.

    Args:
      outputs: of the network.
      inside: photo and not padding.

    Returns:
      "affinity": uint8 [B, S, Q, Q], the rows of S pairwise affinities, each scaled to a largest
      entry of 255 by its square root; the fused one first, then its sources. "unary": uint8 [B, Q],
      likewise. "neighbours": float32 [B, S], the exponential of the entropy of a row, mean over the
      photo: how many positions a position looks at. "row_sums": float32 [B, S]. "grid": int32
      [B, 2], rows and columns of the grid. "extent": int32 [B, 2], rows and columns of the feature
      grid that hold the photo, "factor" int32 [B] of which make one. {} without affinities.
    """
    if "affinity" not in outputs and "unary" not in outputs:
        return {}
    height, width = outputs["cam"].shape[1:3]
    factor = max(math.ceil(math.sqrt(height * width / _MOST_CELLS)), 1)
    rows, columns = -(-height // factor), -(-width // factor)
    line, column = np.divmod(np.arange(height * width), width)
    cells = np.eye(rows * columns, dtype=np.float32)[(line // factor) * columns + column // factor]
    middles = np.minimum(np.arange(rows) * factor + factor // 2, height - 1)[:, None] * width
    middles = (middles + np.minimum(np.arange(columns) * factor + factor // 2, width - 1)).ravel()
    present = resize_nearest(inside, (height, width)).reshape(len(inside), -1)
    maps: dict[str, Array] = {}
    if "affinity" in outputs:
        found = [_coarse(source, cells, present) for source in _sources(outputs["affinity"])]
        shown, neighbours, sums = (jnp.stack(part, 1) for part in zip(*found, strict=True))
        maps |= {"affinity": shown[:, :, middles], "neighbours": neighbours, "row_sums": sums}
    if "unary" in outputs:
        maps["unary"] = _to_levels(outputs["unary"] @ cells)
    held = present.reshape(-1, height, width)
    extent = jnp.stack([held.any(2).sum(1), held.any(1).sum(1)], 1).astype(jnp.int32)
    grid = jnp.broadcast_to(jnp.array([rows, columns], jnp.int32), extent.shape)
    return maps | {"extent": extent, "grid": grid, "factor": jnp.full(len(inside), factor)}


def _sources(fused: Pairwise) -> list[Pairwise]:
    """Returns the fused affinity, and those that it is fused from."""
    if len(fused.queries) < 2:
        return [fused]
    pairs = zip(fused.queries, fused.keys, strict=True)
    alone = [Pairwise((q,), (k,), fused.inside, None, None, fused.block) for q, k in pairs]
    return [fused, *alone]


def _coarse(
    affinity: Pairwise, cells: np.ndarray, present: Bool[Array, "B N"]
) -> tuple[Array, Array, Array]:
    """Returns rows over coarse cells as levels [B, N, Q], neighbours [B] and row sums [B]."""

    def see(rows: Array) -> Array:
        total = rows.sum(-1, keepdims=True)
        share = rows / jnp.maximum(total, 1e-12)
        entropy = -(share * jnp.log(jnp.maximum(share, 1e-12))).sum(-1, keepdims=True)
        return jnp.concatenate([rows @ cells, jnp.exp(entropy), total], -1)

    seen = affinity.map_rows(see)
    weight = present / jnp.maximum(present.sum(1, keepdims=True), 1)
    neighbours, sums = (jnp.einsum("bn,bn->b", seen[..., k], weight) for k in (-2, -1))
    return _to_levels(seen[..., :-2]), neighbours, sums


def _to_levels(rows: Array) -> Array:
    # The gate's sum may be a little below 0.
    scaled = jnp.maximum(rows, 0) / jnp.maximum(rows.max(-1, keepdims=True), 1e-12)
    return jnp.round(255 * jnp.sqrt(scaled)).astype(jnp.uint8)
