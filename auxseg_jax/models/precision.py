"""How precise products are: one policy, the same on every device.

Left to itself, JAX rounds the inputs of float32 products to TF32 (10 bits of mantissa) on a GPU and
to bfloat16 (7 bits) on a TPU. Here every product says what it needs:

exact           float32 on every device: affinities and their fusion, refinement, random walk, CRF,
                and what the losses do
convolutions    as `config.model.precision` says: backbone, branches, heads, classification

A test reads the compiled programs and fails if another product is below float32.
"""

import contextlib

import jax
import jax.numpy as jnp

PRECISIONS = ("highest", "tensorfloat32", "bfloat16")
"""Values of `config.model.precision`.

  highest        float32 everywhere
  tensorfloat32  float32 arrays. A GPU with tensor cores multiplies in TF32, as PyTorch's
                 convolutions do by default; a TPU in three passes of bfloat16, which is closer to
                 float32; the CPU in float32.
  bfloat16       arrays and products of bfloat16, sums of float32
"""


def exact() -> contextlib.AbstractContextManager:
    """Makes the products that are traced inside exact: float32 on every device."""
    return jax.default_matmul_precision("highest")


def convolutions(precision: str) -> contextlib.AbstractContextManager:
    """Makes the products that are traced inside as precise as one of PRECISIONS."""
    return jax.default_matmul_precision(precision)


def dtype(precision: str) -> jnp.dtype:
    """Returns the type of arrays between convolutions of one of PRECISIONS."""
    return jnp.dtype("bfloat16" if precision == "bfloat16" else "float32")


def current() -> str | None:
    """Returns the precision that is set where this is called.

    A gradient that is written by hand is traced later, where another one may be set.
    """
    return jax.config.jax_default_matmul_precision
