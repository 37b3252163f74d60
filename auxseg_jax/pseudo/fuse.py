"""From CAMs and saliency to segmentation labels (arXiv 2107.11787; strict thresholds, first maximum wins)."""

import jax
import jax.numpy as jnp

from auxseg_jax.files import IGNORE


def fuse(
    cam: jax.Array,
    saliency: jax.Array,
    labels: jax.Array,
    *,
    cam_threshold: float,
    saliency_threshold: float,
    spill_threshold: float,
    empty_is_background: bool,
) -> jax.Array:
    """Segmentation labels uint8 [B, H, W].

    max_c CAM > cam_threshold and saliency > saliency_threshold -> the class; neither -> 0; salient without CAM -> 255;
    CAM without saliency -> 255 where max_c CAM > spill_threshold, else 0.

    Args:
      cam: [B, H, W, C] in 0..1.
      saliency: [B, H, W] in 0..1.
      labels: [B, C] multi-hot; classes that are not in a photo's label never win.
      cam_threshold, saliency_threshold: both strict.
      spill_threshold: CAMs are coarse and spill over their object. Where there is no saliency, a weak one is taken as spilt,
        and only a strong one as a doubt: else no pixel around an object is labelled, and the network learns objects that
        are too fat. At cam_threshold it is the paper's rule, where every doubt is 255.
      empty_is_background: a photo without any label is background everywhere, not only where saliency is low.
    """
    cam = cam * labels[:, None, None, :]
    strength = cam.max(-1)
    is_object, is_salient = strength > cam_threshold, saliency > saliency_threshold
    doubtful = is_salient | (strength > spill_threshold)
    fused = jnp.where(is_object & is_salient, cam.argmax(-1) + 1, jnp.where(doubtful, IGNORE, 0))
    if empty_is_background:
        fused = jnp.where((labels.sum(-1) == 0)[:, None, None], 0, fused)
    return fused.astype(jnp.uint8)
