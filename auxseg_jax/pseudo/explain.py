"""What a stage makes of a labelled photo, step by step, for people to look at."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid
from auxseg_jax.inference import cam as cam_lib
from auxseg_jax.inference.windows import over_windows
from auxseg_jax.models.auxsegnet import normalize
from auxseg_jax.models.layers import resize_bilinear, resize_nearest
from auxseg_jax.models.pairwise import Pairwise

_MOST_CELLS = 400
"""Of the coarse grid on which affinities are shown. A photo of VOC has ten times as many."""


def explain(
    params: dict,
    batch: Mapping[str, Array],
    *,
    network: Any,
    grid: Grid,
    window: int,
    predict: Callable[[dict, Mapping[str, Array]], dict[str, Array]],
    propagate: Callable[[dict, Mapping[str, Array]], tuple[dict[str, Any], Array, Array]],
) -> dict[str, Array]:
    """Returns the steps from CAM to prediction of a batch of labelled photos.

    Args:
      params: parameters of the stage.
      batch: arrays of a batch of whole photos, as `update.updated_labels` takes them.
      network: the `AuxSegNet`.
      grid: sizes that suit the network.
      window: see `over_windows`.
      predict: `inference.segmentation.segment` with its options.
      propagate: `update.propagate` with its options.

    Returns:
      What `predict` returns; "cam_class", "cam_score", "walked_class" and "walked_score", of the
      CAM before and after the walk, uint8 [B, H, W]; and what `affinity_maps` returns.
    """
    _, *cams = propagate(params, batch)
    maps = predict(params, batch)
    for name, cam in zip(("cam", "walked"), cams, strict=True):
        cam = cam_lib.normalize(cam) * batch["labels"][:, None, None, :]
        cam = resize_bilinear(cam, batch["inside"].shape[1:3])
        maps[f"{name}_class"] = (cam.argmax(-1) + 1).astype(jnp.uint8)
        maps[f"{name}_score"] = jnp.round(255 * cam.max(-1)).astype(jnp.uint8)
    variables = {"params": network.cast(params)}

    def outputs_of(image: Array, inside: Array) -> dict[str, Any]:
        return network.apply(variables, image, inside=inside)

    image = normalize(network, batch["image"], batch["inside"])
    return maps | affinity_maps(outputs_of, image, batch["inside"], window=window, grid=grid)


def affinity_maps(
    outputs_of: Callable[[Array, Array], Mapping[str, Any]],
    image: Float[Array, "B H W 3"],
    inside: Bool[Array, "B H W"],
    *,
    window: int,
    grid: Grid,
) -> dict[str, Array]:
    """Returns what each cell of a coarse grid looks at.

    Seen through windows, a position looks at what is in its windows.

    Args:
      outputs_of: (image, inside) -> outputs of the network.
      image: a batch of photos, normalised.
      inside: photo and not padding.
      window: see `over_windows`.
      grid: sizes that suit the network.

    Returns:
      "affinity": uint8 [B, S, Q, Q], the rows of S pairwise affinities, each scaled to a largest
      entry of 255 by its square root; the fused one first, then its sources. "uniform": uint8
      [B, Q, Q], likewise, of an affinity that looks at all that it could. "unary": uint8 [B, Q],
      likewise. "neighbours": float32 [B, S], the exponential of the entropy of a row, mean over the
      photo: how many positions a position looks at. "row_sums": float32 [B, S]. "parts": float32
      [B, S - 1], how much of the fused one's row sum comes from each source. "grid": int32 [B, 2],
      rows and columns of the grid. "extent": int32 [B, 2], rows and columns of the feature
      grid that hold the photo, "factor" int32 [B] of which make one. {} without affinities.
    """
    height, width = map(grid.cells, image.shape[1:3])
    factor = max(math.ceil(math.sqrt(height * width / _MOST_CELLS)), 1)
    rows, columns = -(-height // factor), -(-width // factor)
    line, column = np.divmod(np.arange(height * width), width)
    coarse = np.eye(rows * columns, dtype=np.float32)[(line // factor) * columns + column // factor]
    coarse = jnp.tile(coarse.reshape(height, width, -1), (len(image), 1, 1, 1))
    look = functools.partial(_look, outputs_of)
    seen = over_windows(look, image, inside, [coarse], window=window, grid=grid)
    if not seen:
        return {}
    present = resize_nearest(inside, (height, width))
    weight = present / jnp.maximum(present.sum((1, 2), keepdims=True), 1)
    extent = jnp.stack([present.any(2).sum(1), present.any(1).sum(1)], 1).astype(jnp.int32)
    middles = [
        jnp.minimum(jnp.arange(count) * factor + factor // 2, extent[:, axis, None] - 1)
        for axis, count in enumerate((rows, columns))
    ]

    maps: dict[str, Array] = {}
    if "affinity" in seen:
        every = jnp.stack(seen["affinity"], 1)  # [B, S, h, w, Q + 2]
        maps["affinity"] = _at(middles, every[..., :-2])
        maps["uniform"] = _at(middles, seen["uniform"][:, None])[:, 0]
        means = jnp.einsum("bshwk,bhw->bsk", every[..., -2:], weight)
        maps |= {"neighbours": means[..., 0], "row_sums": means[..., 1]}
    if "parts" in seen:
        maps["parts"] = jnp.einsum("bhws,bhw->bs", seen["parts"], weight)
    if "unary" in seen:
        maps["unary"] = _to_levels(jnp.einsum("bhwq,bhw->bq", seen["unary"], weight))
    size = jnp.broadcast_to(jnp.array([rows, columns], jnp.int32), extent.shape)
    return maps | {"extent": extent, "grid": size, "factor": jnp.full(len(image), factor)}


def _at(middles: Sequence[Array], every: Float[Array, "B S h w Q"]) -> UInt8[Array, "B S Q Q"]:
    """Returns the rows at the middles of the coarse cells, as levels."""
    shown = jax.vmap(lambda planes, i, j: planes[:, i][:, :, j])(every, *middles)
    return _to_levels(shown.reshape(*every.shape[:2], -1, every.shape[-1]))


def _look(
    outputs_of: Callable[[Array, Array], Mapping[str, Any]],
    image: Float[Array, "B H W 3"],
    inside: Bool[Array, "B H W"],
    coarse: Float[Array, "B h w Q"],
) -> dict[str, Any]:
    """Returns of each position what its rows look at, over coarse cells."""
    outputs, flat = outputs_of(image, inside), coarse.reshape(len(coarse), -1, coarse.shape[-1])

    def everywhere(row: Float[Array, "B N"]) -> Float[Array, "B h w Q"]:
        seen = jnp.einsum("bn,bnq->bq", row, flat)
        return jnp.broadcast_to(seen[:, None, None], coarse.shape)

    found: dict[str, Any] = {}
    if "affinity" in outputs:
        seen = [_see(source, flat) for source in _sources(outputs["affinity"])]
        found["affinity"] = [x.reshape(*coarse.shape[:3], -1) for x in seen]
        present = resize_nearest(inside, coarse.shape[1:3]).reshape(len(coarse), -1)
        found["uniform"] = everywhere(present / jnp.maximum(present.sum(1, keepdims=True), 1))
        if len(seen) > 1:
            found["parts"] = outputs["affinity"].source_sums().reshape(*coarse.shape[:3], -1)
    if "unary" in outputs:
        found["unary"] = everywhere(outputs["unary"])
    return found


def _sources(fused: Pairwise) -> list[Pairwise]:
    """Returns the fused affinity, and those that it is fused from."""
    if len(fused.queries) < 2:
        return [fused]
    pairs = zip(fused.queries, fused.keys, strict=True)
    alone = [Pairwise((q,), (k,), fused.inside, None, None, fused.block) for q, k in pairs]
    return [fused, *alone]


def _see(affinity: Pairwise, cells: Float[Array, "B N Q"]) -> Float[Array, "B N Q+2"]:
    """Returns rows over coarse cells, the exponential of their entropy, and their sum."""

    def see(rows: Array) -> Array:
        total = rows.sum(-1, keepdims=True)
        share = rows / jnp.maximum(total, 1e-12)
        entropy = -(share * jnp.log(jnp.maximum(share, 1e-12))).sum(-1, keepdims=True)
        return jnp.concatenate([rows @ cells, jnp.exp(entropy), total], -1)

    return affinity.map_rows(see)


def _to_levels(rows: Array) -> Array:
    # The gate's sum may be a little below 0.
    scaled = jnp.maximum(rows, 0) / jnp.maximum(rows.max(-1, keepdims=True), 1e-12)
    return jnp.round(255 * jnp.sqrt(scaled)).astype(jnp.uint8)
