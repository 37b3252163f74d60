"""Checksums of arrays, computed where the arrays lie: on any devices, split over any hosts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxseg_jax.arrays import Array

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def fingerprint(tree: Any) -> dict[str, int]:
    """Returns a checksum of 32 bits for every array of a tree, by its path.

    It changes with any single bit of an array.
    """
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    sums = _sums(jax.tree.leaves(tree))
    return {name: int(np.asarray(value)) for name, value in zip(names, sums, strict=True)}


def differences(tree: Any, written: dict[str, int]) -> list[str]:
    """Returns the paths of the arrays whose checksum is not the written one."""
    return [name for name, value in fingerprint(tree).items() if written.get(name, value) != value]


@jax.jit
def _sums(arrays: list[Array]) -> list[Array]:
    return [_sum(array) for array in arrays]


def _sum(array: Array) -> Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, _UNSIGNED[array.dtype.itemsize]).astype(jnp.uint32)
    # An odd factor keeps every bit of a word, and tells places apart.
    factor = jnp.uint32(1)
    for axis, size in enumerate(words.shape):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        factor = factor * jnp.uint32(size) + place
    return (words * (2 * factor + 1)).sum(dtype=jnp.uint32)
