"""Segmentation and classification of whole photos, over a split or a folder."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh

from auxseg_jax import files, passes, platform, sharding
from auxseg_jax.data import features
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.models.auxsegnet import final
from auxseg_jax.models.layers import resize_bilinear, resize_nearest


def probabilities(network: nn.Module, params: dict, image: jax.Array, inside: jax.Array, *, scales: Sequence[float], flip: bool) -> jax.Array:
    """Class probabilities [B, H, W, C+1] of a batch of whole photos: softmax of the logits at photo size, mean over views."""
    total, (height, width) = 0.0, image.shape[1:3]
    views = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    for scale, mirrored in views:
        target = max(round(height * scale), 1), max(round(width * scale), 1)
        view = image if scale == 1.0 else resize_bilinear(image, target)
        view_inside = inside if scale == 1.0 else resize_nearest(inside, target)
        if mirrored:
            view, view_inside = view[:, :, ::-1], view_inside[:, :, ::-1]
        logits = final(network.apply({"params": params}, view, inside=view_inside)["seg"])
        logits = resize_bilinear(logits[:, :, ::-1] if mirrored else logits, (height, width))
        total += jax.nn.softmax(logits)
    return total / len(views)


def segment(
    name: str, network: nn.Module, params: dict, reader: PhotoReader, output: epath.PathLike, mesh: Mesh, *, scales: Sequence[float], flip: bool
) -> None:
    """Writes <output>/<id>.png, indexed with the VOC palette, size of the photo, for every photo of `reader`."""
    output = epath.Path(output)

    def predict(params: dict, batch: dict) -> dict[str, jax.Array]:
        scores = probabilities(network, params, batch["image"], batch["inside"], scales=scales, flip=flip)
        return {"labels": scores.argmax(-1).astype(jnp.uint8)}

    function = _jitted(predict, mesh)
    passes.run(
        name, lambda batch: function(params, batch), reader, lambda key, row: files.write_label_png(output / f"{key}.png", row["labels"]), mesh
    )


def classify(name: str, network: nn.Module, params: dict, reader: PhotoReader, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """(logits [P, C], labels [P, C]) of the classification branch over the photos of `reader`."""
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def predict(params: dict, batch: dict) -> dict[str, jax.Array]:
        outputs = network.apply({"params": params}, batch["image"], inside=batch["inside"], dense=False)
        return {"logits": outputs["cls_logits"], "labels": batch["labels"]}

    def keep(key: str, row: dict) -> None:
        rows[key] = row["logits"], row["labels"]

    function = _jitted(predict, mesh)
    passes.run(name, lambda batch: function(params, batch), reader, keep, mesh)
    logits, labels = zip(*(rows[key] for key in sorted(rows)), strict=True)
    return np.stack(logits), np.stack(labels)


def _jitted(function: Callable, mesh: Mesh) -> Callable:
    whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    return platform.jit(function, in_shardings=(whole, split), out_shardings=split)


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
