"""Random walk of CAMs on a learned affinity (PSA, arXiv 1803.10464).

With beta 1, one step, no normalisation and no restart it is the rule of AuxSegNet (arXiv
2107.11787): CAM <- A CAM.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from auxseg_jax.arrays import Array
from auxseg_jax.models import precision
from auxseg_jax.models.pairwise import Pairwise


def transition(
    rows: Float[Array, "B R N"], *, beta: float, normalize: bool
) -> Float[Array, "B R N"]:
    """Returns rows of T = A ** beta (elementwise), scaled to sum to 1 if `normalize`.

    Rows of A must not be negative.
    """
    rows = rows if beta == 1 else rows**beta
    return rows / (rows.sum(-1, keepdims=True) + 1e-20) if normalize else rows


def random_walk(
    cam: Float[Array, "B h w C"],
    affinity: Pairwise,
    *,
    beta: float,
    steps: int,
    normalize: bool,
    restart: float,
) -> Float[Array, "B h w C"]:
    """Takes CAM <- (1 - restart) T CAM + restart CAM_0, `steps` times.

    The options are the config's `walk.*`.

    Args:
      cam: the maps that walk.
      affinity: A [B, N, N] with N = h * w; row i says where position i looks.
      beta: sharpens the affinity.
      steps: number of applications of T; 0 leaves the CAMs as they are.
      normalize: rows of T sum to 1, so that CAMs stay in their range.
      restart: probability of a walker to return to where it began. An affinity that is not yet
        trained sends all walkers to the same few positions; the restart keeps what the CAM says.
    """
    flat = cam.reshape(cam.shape[0], -1, cam.shape[-1])
    start = restart * flat

    def walk(_, state: Array) -> Array:
        moved = affinity.map_rows(
            lambda rows: jnp.matmul(transition(rows, beta=beta, normalize=normalize), state)
        )
        return (1 - restart) * moved + start if restart else moved

    with precision.exact():
        return jax.lax.fori_loop(0, steps, walk, flat).reshape(cam.shape)
