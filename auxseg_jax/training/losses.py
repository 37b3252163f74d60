"""The five losses of AuxSegNet (arXiv 2107.11787, section 3.3), all means over a batch, in float32.

A mean is a sum over what is seen of the batch, divided by what counts in all of it (`counts`), so that parts of a batch add up to it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from auxseg_jax.files import IGNORE
from auxseg_jax.models.layers import resize_bilinear


def counts(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What each task's mean is over: {"cls": photos times classes, "sal": pixels that are no padding, "seg": pixels with a label}."""
    found = {"cls": jnp.asarray(batch["labels"].size)}
    if "segmentation" in batch:
        found |= {"sal": (batch["saliency"] >= 0).sum(), "seg": (batch["segmentation"] != IGNORE).sum()}
    return found


def _mean(losses: jax.Array, count: jax.Array) -> jax.Array:
    return losses.sum() / jnp.maximum(count, 1)


def multilabel_soft_margin(logits: jax.Array, labels: jax.Array, count: jax.Array) -> jax.Array:
    """Mean over photos and classes of the binary cross entropy of [B, C] logits against [B, C] multi-hot labels."""
    return _mean(optax.sigmoid_binary_cross_entropy(logits, labels), count)


def saliency_loss(logits: jax.Array, saliency: jax.Array, count: jax.Array) -> jax.Array:
    """Binary cross entropy of [B, h, w, 1] logits, brought to label size, against [B, H, W] in 0..1 binarised at > 0.5.

    Pixels of value -1 (padding of a crop) do not count.
    """
    logits = resize_bilinear(logits, saliency.shape[1:])[..., 0]
    loss = optax.sigmoid_binary_cross_entropy(logits, (saliency > 0.5).astype(logits.dtype))
    return _mean(jnp.where(saliency >= 0, loss, 0), count)


def segmentation_loss(logits: jax.Array, labels: jax.Array, count: jax.Array) -> jax.Array:
    """Cross entropy of [B, h, w, C+1] logits, brought to label size, against int [B, H, W].

    The mean is over the pixels of the whole batch that are not 255; 0 if there is none.
    """
    logits = resize_bilinear(logits, labels.shape[1:])
    labelled = labels != IGNORE
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(labelled, labels, 0))
    return _mean(jnp.where(labelled, loss, 0), count)


def classifier_loss(outputs: dict[str, Any], batch: dict[str, jax.Array], count: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The loss of the classifier phase, {"loss_cls"}; `count` is `counts` of all the batch."""
    return {"loss_cls": multilabel_soft_margin(outputs["cls_logits"], batch["labels"], count["cls"])}


def stage_losses(outputs: dict[str, Any], batch: dict[str, jax.Array], count: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The losses of a stage, one for each prediction the network makes: loss_cls, loss_{sal,seg}_{initial,refined}."""
    losses = classifier_loss(outputs, batch, count) if "cls_logits" in outputs else {}
    for task, function, target in (("sal", saliency_loss, batch["saliency"]), ("seg", segmentation_loss, batch["segmentation"])):
        for kind, logits in outputs.get(task, {}).items():
            losses[f"loss_{task}_{kind}"] = function(logits, target, count[task])
    return losses


def total(losses: dict[str, jax.Array], *, classification: float, saliency: float, segmentation: float) -> jax.Array:
    """Weighted sum of a dict of losses; the weights are the paper's lambda 1, 2, 3."""
    weights = {"cls": classification, "sal": saliency, "seg": segmentation}
    return sum(weights[name.split("_")[1]] * value for name, value in losses.items())
