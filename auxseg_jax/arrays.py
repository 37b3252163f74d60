"""The arrays that functions take: those of JAX, and numpy's, which JAX converts.

Shapes stand in signatures, as in `Float[Array, "B h w C"]` (jaxtyping). They are checked in tests.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
