"""Masks of photos whose image labels are known: what the network says, and what it was taught.

A network that has seen a few dozen photos is weaker than the pseudo labels it learned from, and on
other photos of one set it is the other way round. The mean of both, restricted to the classes of
the photo's label, and of the given saliency is better than each (docs/results.md).
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Float

from auxseg_jax.arrays import Array
from auxseg_jax.pixel_labels import IGNORE

Function = Callable[[dict, Mapping[str, Array]], dict[str, Array]]
"""(parameters, batch of whole photos) -> arrays."""


def segment(
    params: dict,
    batch: Mapping[str, Array],
    *,
    predict: Callable,
    updated_labels: Function,
    classifier_cam: Function | None,
) -> dict[str, Array]:
    """Segments a batch of labelled photos.

    Args:
      params: {"network": parameters of the stage, "classifier": those of the classifier}.
      batch: see `data.loader`, with labels.
      predict: `inference.segmentation.segment` with its options.
      updated_labels: `pseudo.update.updated_labels` with its options.
      classifier_cam: `pseudo.update.classifier_cam` with its options; None: updates do without.

    Returns:
      What `predict` returns.
    """
    batch = dict(batch)
    if classifier_cam is not None:
        cam = classifier_cam(params["classifier"], batch)["cam"]
        batch["classifier_cam"] = cam * batch["labels"][:, None, None, :]
    pseudo = updated_labels(params["network"], batch)["segmentation"]
    return predict(params["network"], batch, combine=lambda scores: combine(scores, batch, pseudo))


def combine(
    scores: Float[Array, "B H W L"], batch: Mapping[str, Array], pseudo: Array
) -> Float[Array, "B H W L"]:
    """Returns the mean of the network's probabilities, pseudo labels and saliency.

    Only background and the classes of a photo's label have a probability. Where a pseudo label is
    255, the network stands for it. Saliency is the probability of an object; which class it is of
    is said by the network.

    Args:
      scores: the network's probabilities, background first.
      batch: "labels" [B, C] multi-hot, and perhaps "saliency" [B, H, W] in 0..1.
      pseudo: uint8 [B, H, W].
    """
    possible = jnp.pad(batch["labels"], ((0, 0), (1, 0)), constant_values=1)[:, None, None, :]
    scores = _normalized(scores * possible)
    taught = jnp.where(
        (pseudo == IGNORE)[..., None],
        scores,
        (pseudo[..., None] == jnp.arange(scores.shape[-1])).astype(scores.dtype),
    )
    sources = [scores, taught]
    if "saliency" in batch:
        saliency = batch["saliency"][..., None]
        classes = _normalized(scores[..., 1:] + 1e-6 * possible[..., 1:])
        sources.append(jnp.concatenate([1 - saliency, saliency * classes], -1))
    return _normalized(sum(sources) / len(sources) * possible)


def _normalized(scores: Array) -> Array:
    return scores / jnp.maximum(scores.sum(-1, keepdims=True), 1e-12)
