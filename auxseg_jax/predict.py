"""Segmentation and classification of whole photos, over a split or a folder."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh

from auxseg_jax import files, passes
from auxseg_jax.data import features, listing
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.grid import Grid
from auxseg_jax.models.affinity import Pairwise
from auxseg_jax.models.auxsegnet import colours, final
from auxseg_jax.models.layers import resize_bilinear, views
from auxseg_jax.pseudo import cam as cam_lib
from auxseg_jax.pseudo import crf as crf_lib
from auxseg_jax.terminal import progress


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
        outputs = network.apply({"params": network.cast(params)}, view, inside=view_inside)
        for task in seen.keys() & outputs.keys():
            seen[task].append(activation[task](resize_bilinear(unmirror(final(outputs[task])), size)))
    return {task: sum(scores) / len(scores) for task, scores in seen.items() if scores}


def labels_of(
    params: dict,
    batch: dict,
    *,
    network: nn.Module,
    grid: Grid,
    scales: Sequence[float],
    flip: bool,
    show: Collection[str] = (),
    point: tuple[int, int] | None = None,
    crf: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """Labels of a batch of whole photos, and the maps to show: what `segment` writes.

    Args:
      params, network: of the network.
      batch: see `data.loader`.
      grid: sizes of the views.
      scales, flip: views.
      show: any of overlay, saliency (of a network that has that task), cam and affinity.
      point: (x, y) in pixels, for affinity.
      crf: options of `crf.segmentation`; without, or with 0 iterations, the probabilities stay as they are.
    """
    image, inside, size = batch["image"], batch["inside"], batch["image"].shape[1:3]
    scores = probabilities(network, params, image, inside, grid, scales=scales, flip=flip)
    if crf and crf["iterations"]:
        sharpen = functools.partial(crf_lib.segmentation, **crf)
        scores["seg"] = jax.vmap(sharpen)(colours(network, image), scores["seg"], inside)
    maps = {"labels": scores["seg"].argmax(-1).astype(jnp.uint8)}
    if "overlay" in show:
        maps["photo"] = colours(network, image).astype(jnp.uint8)
    if "saliency" in show and "sal" in scores:
        maps["saliency"] = _grey(scores["sal"][..., 0])
    if {"cam", "affinity"} & set(show):
        outputs = network.apply({"params": network.cast(params)}, image, inside=inside)
    if "cam" in show:
        maps["cam"] = _grey(cam_lib.normalize(resize_bilinear(outputs["cam"], size)))
        maps["present"] = jax.nn.sigmoid(outputs["cls_logits"]) > 0.5
    if "affinity" in show:
        maps["affinity"] = _grey(_row_at(outputs["affinity"], point, outputs["cam"].shape[1:3], size))
    return maps


def segment(
    name: str,
    labels_of: Callable[[dict, dict], dict],
    params: dict,
    reader: PhotoReader,
    output: epath.PathLike,
    mesh: Mesh,
    classes: Sequence[str] = (),
) -> None:
    """Writes <output>/<id>.png, indexed with the VOC palette, size of the photo, for every photo of `reader`; and the maps to show.

    overlay: <output>/overlay/<id>.jpg, the photo under the colours of its labels. saliency: <output>/saliency/<id>.png, grey. cam:
    <output>/cam/<id>.<class>.png, grey, of the classes to which the classification branch gives more than 0.5. affinity:
    <output>/affinity/<id>.png, grey, the row of the (cross-task) pairwise affinity for the point, its largest entry white.

    Args:
      name: on the progress bar.
      labels_of: the function of that name, by `passes.jit`.
      params, mesh: of the network, and where batches go.
      reader: the photos.
      output: folder.
      classes: names, background first, for the file names of `cam`.
    """
    output = epath.Path(output)

    def write(key: str, row: dict[str, np.ndarray]) -> None:
        files.write_label_png(output / f"{key}.png", row["labels"])
        if "photo" in row:
            files.write_jpeg(output / "overlay" / f"{key}.jpg", _overlay(row["photo"], row["labels"]))
        for kind in ("saliency", "affinity"):
            if kind in row:
                files.write_grey_png(output / kind / f"{key}.png", row[kind])
        for index in np.flatnonzero(row.get("present", ())):
            files.write_grey_png(output / "cam" / f"{key}.{classes[index + 1]}.png", row["cam"][..., index])

    passes.run(name, labels_of, params, reader, write, mesh)


def _grey(values: jax.Array) -> jax.Array:
    return jnp.round(255 * values).astype(jnp.uint8)


def _row_at(affinity: Pairwise, point: tuple[int, int], cells: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Row of the affinity for the cell that holds a pixel, [B, H, W], its largest entry 1."""
    column, line = (min(int(p * n / s), n - 1) for p, n, s in zip(point, cells[::-1], size[::-1], strict=True))
    row = affinity.row(line * cells[1] + column).reshape(-1, *cells, 1)
    return resize_bilinear(row / row.max((1, 2, 3), keepdims=True), size)[..., 0]


def _overlay(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The photo, half of it covered by the labels' colours where there is an object."""
    mixed = (photo.astype(np.uint16) + files.palette()[labels]) // 2
    return np.where(labels[..., None] > 0, mixed, photo).astype(np.uint8)


def classify(name: str, network: nn.Module, params: dict, reader: PhotoReader, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """(logits [P, C], labels [P, C]) of the classification branch over the photos of `reader`."""
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def predict(params: dict, batch: dict) -> dict[str, jax.Array]:
        outputs = network.apply({"params": network.cast(params)}, batch["image"], inside=batch["inside"], dense=False)
        return {"logits": outputs["cls_logits"], "labels": batch["labels"]}

    def keep(key: str, row: dict) -> None:
        rows[key] = row["logits"], row["labels"]

    passes.run(name, passes.jit(predict, mesh), params, reader, keep, mesh)
    if not rows:  # of more hosts than photos
        return np.zeros((2, 0, network.num_classes), np.float32)
    logits, labels = zip(*(rows[key] for key in sorted(rows)), strict=True)
    return np.stack(logits), np.stack(labels)


class PhotoFiles:
    """Photo files as a source for `PhotoReader`: ids are the file names without ending.

    Attributes:
      sizes: (H, W) of the photos that can be read; the source holds these.
      faults: a line for each of the others.

    Raises:
      ValueError: names that would be written to the same mask.
    """

    def __init__(self, paths: Sequence[epath.PathLike]):
        self._paths, self.sizes, self.faults = [], [], []
        stems = listing.by_stem(paths)
        with progress("reading photos", len(stems), unit="photo") as bar:
            for path in stems.values():
                try:
                    self.sizes.append(features.check_image(path.read_bytes()))
                    self._paths.append(path)
                except (OSError, ValueError) as error:
                    self.faults.append(f"{path}: {error}")
                bar.advance(1)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._paths[index]
        return {"id": path.stem.encode(), "image": path.read_bytes()}
