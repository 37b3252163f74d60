"""The five losses of AuxSegNet (arXiv 2107.11787, section 3.3): means over a batch, in float32.

A mean is a sum over the part of a batch that is seen, divided by what counts in the whole batch
(`counts`). So the parts of a batch add up to it.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from auxseg_jax.arrays import Array
from auxseg_jax.models.layers import resize_bilinear
from auxseg_jax.pixel_labels import IGNORE

Count = Int[Array, ""]


def counts(batch: dict[str, Array]) -> dict[str, Count]:
    """Returns what each task's mean is over.

    Returns:
      {"cls": photos times classes, "sal": pixels that are no padding, "seg": pixels with a label};
      the last two if the batch has pixel labels.
    """
    result = {"cls": jnp.asarray(batch["labels"].size)}
    if "segmentation" in batch:
        result["sal"] = jnp.sum(batch["saliency"] >= 0)
        result["seg"] = jnp.sum(batch["segmentation"] != IGNORE)
    return result


def _mean(losses: Array, count: Array) -> Array:
    return losses.sum() / jnp.maximum(count, 1)


def multilabel_soft_margin(
    logits: Float[Array, "B C"], labels: Float[Array, "B C"], count: Count
) -> Float[Array, ""]:
    """Returns the binary cross entropy against multi-hot labels, a mean over photos and classes."""
    return _mean(optax.sigmoid_binary_cross_entropy(logits, labels), count)


def saliency_loss(
    logits: Float[Array, "B h w 1"], saliency: Float[Array, "B H W"], count: Count
) -> Float[Array, ""]:
    """Returns the binary cross entropy of logits, brought to label size.

    Saliency in 0..1 is binarised at > 0.5. Pixels of value -1 (padding of a crop) do not count.
    """
    logits = resize_bilinear(logits, saliency.shape[1:])[..., 0]
    targets = (saliency > 0.5).astype(logits.dtype)
    loss = optax.sigmoid_binary_cross_entropy(logits, targets)
    return _mean(jnp.where(saliency >= 0, loss, 0), count)


def segmentation_loss(
    logits: Float[Array, "B h w C"], labels: Int[Array, "B H W"], count: Count
) -> Float[Array, ""]:
    """Returns the cross entropy of logits, brought to label size.

    The mean is over the pixels of the whole batch that are not 255; it is 0 if there is none.
    """
    logits = resize_bilinear(logits, labels.shape[1:])
    labelled = labels != IGNORE
    targets = jnp.where(labelled, labels, 0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return _mean(jnp.where(labelled, loss, 0), count)


def classifier_loss(
    outputs: dict[str, Any], batch: dict[str, Array], count: dict[str, Count]
) -> dict[str, Float[Array, ""]]:
    """Returns the loss of the classifier phase, {"loss_cls"}.

    Args:
      outputs: outputs of the network.
      batch: a training batch, see `data.loader`.
      count: `counts` of the whole batch.
    """
    logits, labels = outputs["cls_logits"], batch["labels"]
    return {"loss_cls": multilabel_soft_margin(logits, labels, count["cls"])}


def stage_losses(
    outputs: dict[str, Any], batch: dict[str, Array], count: dict[str, Count]
) -> dict[str, Float[Array, ""]]:
    """Returns the losses of a stage, one for each prediction that the network makes.

    Args:
      outputs: outputs of the network.
      batch: a training batch, see `data.loader`.
      count: `counts` of the whole batch.

    Returns:
      loss_cls, loss_sal_initial, loss_sal_refined, loss_seg_initial, loss_seg_refined.
    """
    losses = classifier_loss(outputs, batch, count) if "cls_logits" in outputs else {}
    functions = {"sal": (saliency_loss, "saliency"), "seg": (segmentation_loss, "segmentation")}
    for task, (function, target) in functions.items():
        for kind, logits in outputs.get(task, {}).items():
            losses[f"loss_{task}_{kind}"] = function(logits, batch[target], count[task])
    return losses


def total(
    losses: Mapping[str, Any],
    *,
    classification: float,
    saliency: float,
    segmentation: float,
) -> Any:
    """Returns the weighted sum of losses; the weights are the paper's lambda 1, 2, 3."""
    weights = {"cls": classification, "sal": saliency, "seg": segmentation}
    return sum(weights[name.split("_")[1]] * value for name, value in losses.items())
