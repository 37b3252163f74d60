"""Random walk of CAMs on a learned affinity (PSA, arXiv 1803.10464; with beta 1, one step, no normalisation and no restart
the rule of AuxSegNet, arXiv 2107.11787: CAM <- A CAM)."""

import jax
import jax.numpy as jnp


def transition(affinity: jax.Array, *, beta: float, normalize: bool) -> jax.Array:
    """T = A ** beta (elementwise), rows scaled to sum to 1 if `normalize`. A [B, N, N], not negative."""
    matrix = affinity if beta == 1 else affinity**beta
    return matrix / (matrix.sum(-1, keepdims=True) + 1e-20) if normalize else matrix


def random_walk(cam: jax.Array, affinity: jax.Array, *, beta: float, steps: int, normalize: bool, restart: float) -> jax.Array:
    """CAM <- (1 - restart) T CAM + restart CAM_0, `steps` times; without restart T ** steps applied to the CAMs.

    Args:
      cam: [B, h, w, C].
      affinity: [B, N, N] with N = h * w, row i = where position i looks.
      beta: sharpens the affinity.
      steps: number of applications of T; 0 leaves the CAMs as they are.
      normalize: rows of T sum to 1, so that CAMs stay in their range.
      restart: probability of a walker to return to where it began. An affinity that is not yet trained sends all walkers to
        the same few positions; the restart keeps what the CAM itself says.
    """
    matrix = transition(affinity, beta=beta, normalize=normalize)
    flat = cam.reshape(cam.shape[0], -1, cam.shape[-1])
    start = restart * flat

    def walk(_, state):
        moved = jnp.einsum("bij,bjc->bic", matrix, state)
        return (1 - restart) * moved + start if restart else moved

    return jax.lax.fori_loop(0, steps, walk, flat).reshape(cam.shape)
