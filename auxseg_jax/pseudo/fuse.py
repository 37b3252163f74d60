"""From CAMs and saliency to segmentation labels (arXiv 2107.11787).

This is where a pixel of a pseudo label becomes a class, background, or 255; only the veto of an
update (`update.apply_veto`) turns more into 255. Thresholds are strict, and ties go to the first
class.
"""

import jax.numpy as jnp
from jaxtyping import Float, UInt8

from auxseg_jax.arrays import Array
from auxseg_jax.pixel_labels import BACKGROUND, IGNORE


def fuse(
    cam: Float[Array, "B H W C"],
    saliency: Float[Array, "B H W"],
    labels: Float[Array, "B C"],
    *,
    cam_threshold: float,
    saliency_threshold: float,
    spill_threshold: float,
    empty_is_background: bool,
) -> UInt8[Array, "B H W"]:
    """Returns segmentation labels.

    max_c CAM > cam_threshold and saliency > saliency_threshold -> the class; neither -> background;
    salient without CAM -> 255; CAM without saliency -> 255 where max_c CAM > spill_threshold, else
    background. The options are the config's `fuse.*`.

    Args:
      cam: 0..1.
      saliency: 0..1.
      labels: multi-hot; classes that are not in a photo's label never win.
      cam_threshold: see above.
      saliency_threshold: see above.
      spill_threshold: CAMs are coarse and spill over their object. Without saliency, a weak CAM is
        taken as spilt, and only a strong one as a doubt. Otherwise no pixel around an object would
        be labelled, and the network would learn objects that are too fat. At cam_threshold it is
        the paper's rule, where every doubt is 255.
      empty_is_background: a photo without any label is background everywhere, not only where
        saliency is low.
    """
    cam = cam * labels[:, None, None, :]
    strength = cam.max(-1)
    is_object, is_salient = strength > cam_threshold, saliency > saliency_threshold
    is_doubtful = is_salient | (strength > spill_threshold)
    unsure = jnp.where(is_doubtful, IGNORE, BACKGROUND)
    fused = jnp.where(is_object & is_salient, cam.argmax(-1) + 1, unsure)
    if empty_is_background:
        fused = jnp.where((labels.sum(-1) == 0)[:, None, None], BACKGROUND, fused)
    return fused.astype(jnp.uint8)
