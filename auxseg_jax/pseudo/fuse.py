"""From CAMs and saliency to segmentation labels (arXiv 2107.11787; strict thresholds, first maximum wins)."""

import jax
import jax.numpy as jnp

from auxseg_jax.files import IGNORE

SPILL = {"ignore": IGNORE, "background": 0}


def fuse(
    cam: jax.Array,
    saliency: jax.Array,
    labels: jax.Array,
    *,
    cam_threshold: float,
    saliency_threshold: float,
    spill: str,
    empty_is_background: bool,
) -> jax.Array:
    """Segmentation labels uint8 [B, H, W].

    max_c CAM > cam_threshold and saliency > saliency_threshold -> the class; neither -> 0; salient without CAM -> 255;
    CAM without saliency -> what `spill` says.

    Args:
      cam: [B, H, W, C] in 0..1.
      saliency: [B, H, W] in 0..1.
      labels: [B, C] multi-hot; classes that are not in a photo's label never win.
      cam_threshold, saliency_threshold: both strict.
      spill: "ignore" (the paper's rule: 255) or "background": CAMs are coarse and spill over their object; where saliency is
        low they are overruled. Else no pixel around an object is labelled, and the network learns objects that are too fat.
      empty_is_background: a photo without any label is background everywhere, not only where saliency is low.
    """
    if spill not in SPILL:
        raise ValueError(f"fuse.spill={spill!r} is not one of {', '.join(SPILL)}")
    cam = cam * labels[:, None, None, :]
    is_object, is_salient = cam.max(-1) > cam_threshold, saliency > saliency_threshold
    fused = jnp.where(is_object & is_salient, cam.argmax(-1) + 1, jnp.where(is_salient, IGNORE, jnp.where(is_object, SPILL[spill], 0)))
    if empty_is_background:
        fused = jnp.where((labels.sum(-1) == 0)[:, None, None], 0, fused)
    return fused.astype(jnp.uint8)
