"""Random walk of CAMs on a learned affinity (PSA, arXiv 1803.10464; with beta 1, one step and no normalisation the rule
of AuxSegNet, arXiv 2107.11787: CAM <- A CAM)."""

import jax
import jax.numpy as jnp


def transition(affinity: jax.Array, *, beta: float, normalize: bool) -> jax.Array:
    """T = A ** beta (elementwise), rows scaled to sum to 1 if `normalize`. A [B, N, N], not negative."""
    matrix = affinity if beta == 1 else affinity**beta
    return matrix / (matrix.sum(-1, keepdims=True) + 1e-20) if normalize else matrix


def random_walk(cam: jax.Array, affinity: jax.Array, *, beta: float, steps: int, normalize: bool) -> jax.Array:
    """T ** steps applied to the CAMs.

    Args:
      cam: [B, h, w, C].
      affinity: [B, N, N] with N = h * w, row i = where position i looks.
      beta: sharpens the affinity.
      steps: number of applications of T; 0 leaves the CAMs as they are.
      normalize: rows of T sum to 1, so that CAMs stay in their range.
    """
    matrix = transition(affinity, beta=beta, normalize=normalize)
    flat = cam.reshape(cam.shape[0], -1, cam.shape[-1])
    flat = jax.lax.fori_loop(0, steps, lambda _, state: jnp.einsum("bij,bjc->bic", matrix, state), flat)
    return flat.reshape(cam.shape)
