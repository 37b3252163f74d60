"""Segmentation and classification of whole photos, over a split or a folder."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh

from auxseg_jax import files, passes
from auxseg_jax.data import features
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.grid import Grid
from auxseg_jax.models.auxsegnet import colours, final
from auxseg_jax.models.layers import resize_bilinear, views
from auxseg_jax.pseudo import crf as crf_lib


def probabilities(
    network: nn.Module, params: dict, image: jax.Array, inside: jax.Array, grid: Grid, *, scales: Sequence[float], flip: bool
) -> dict[str, jax.Array]:
    """Predictions for a batch of whole photos, at their size, means over views.

    Returns:
      {"seg": class probabilities [B, H, W, C+1], "sal": probability of being salient [B, H, W, 1], if the network has that task}.
    """
    size, activation = image.shape[1:3], {"seg": jax.nn.softmax, "sal": jax.nn.sigmoid}
    seen: dict[str, list[jax.Array]] = {"seg": [], "sal": []}
    for view, view_inside, unmirror in views(image, inside, scales, flip, grid):
        outputs = network.apply({"params": params}, view, inside=view_inside)
        for task in seen.keys() & outputs.keys():
            seen[task].append(activation[task](resize_bilinear(unmirror(final(outputs[task])), size)))
    return {task: sum(scores) / len(scores) for task, scores in seen.items() if scores}


def segment(
    name: str,
    network: nn.Module,
    params: dict,
    reader: PhotoReader,
    output: epath.PathLike,
    mesh: Mesh,
    saliency: bool = False,
    crf: Mapping[str, Any] | None = None,
    *,
    scales: Sequence[float],
    flip: bool,
) -> None:
    """Writes <output>/<id>.png, indexed with the VOC palette, size of the photo, for every photo of `reader`.

    With `saliency` also <output>/saliency/<id>.png, grey, of a network that has that task. `crf` are options of
    `crf.segmentation`; without, or with 0 iterations, the probabilities stay as they are.
    """
    output = epath.Path(output)

    def predict(params: dict, batch: dict) -> dict[str, jax.Array]:
        scores = probabilities(network, params, batch["image"], batch["inside"], reader.grid, scales=scales, flip=flip)
        if crf and crf["iterations"]:
            sharpen = functools.partial(crf_lib.segmentation, **crf)
            scores["seg"] = jax.vmap(sharpen)(colours(network, batch["image"]), scores["seg"], batch["inside"])
        maps = {"labels": scores["seg"].argmax(-1).astype(jnp.uint8)}
        if saliency and "sal" in scores:
            maps["saliency"] = jnp.round(255 * scores["sal"][..., 0]).astype(jnp.uint8)
        return maps

    def write(key: str, row: dict[str, np.ndarray]) -> None:
        files.write_label_png(output / f"{key}.png", row["labels"])
        if "saliency" in row:
            files.write_grey_png(output / "saliency" / f"{key}.png", row["saliency"])

    passes.run(name, predict, params, reader, write, mesh)


def classify(name: str, network: nn.Module, params: dict, reader: PhotoReader, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """(logits [P, C], labels [P, C]) of the classification branch over the photos of `reader`."""
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def predict(params: dict, batch: dict) -> dict[str, jax.Array]:
        outputs = network.apply({"params": params}, batch["image"], inside=batch["inside"], dense=False)
        return {"logits": outputs["cls_logits"], "labels": batch["labels"]}

    def keep(key: str, row: dict) -> None:
        rows[key] = row["logits"], row["labels"]

    passes.run(name, predict, params, reader, keep, mesh)
    logits, labels = zip(*(rows[key] for key in sorted(rows)), strict=True)
    return np.stack(logits), np.stack(labels)


class PhotoFiles:
    """Photo files as a source for `PhotoReader`: ids are the file names without ending.

    Raises:
      ValueError: lists files that cannot be read, and names that would be written to the same mask.
    """

    def __init__(self, paths: Sequence[epath.PathLike]):
        self._paths = [epath.Path(p) for p in paths]
        self.sizes, faults, seen = [], [], {}
        for path in self._paths:
            if path.stem in seen:
                faults.append(f"{path} and {seen[path.stem]} would both be written to {path.stem}.png")
            seen[path.stem] = path
            try:
                self.sizes.append(features.check_image(path.read_bytes()))
            except (OSError, ValueError) as error:
                faults.append(f"{path}: {error}")
        if faults:
            raise ValueError("nothing was predicted; these photos cannot be used:\n  " + "\n  ".join(faults))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._paths[index]
        return {"id": path.stem.encode(), "image": path.read_bytes()}
