"""A hash table on the device, of keys that are words of 32 bits, with static shapes."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from auxseg_jax.arrays import Array

EMPTY = np.iinfo(np.int32).max
"""Value of a free slot."""


def _slot(words: tuple[Array, ...], attempt: Array, size: int) -> Array:
    """Returns where a vertex lies in a table of `size` at its attempt 0, 1, ... (double hashing).

    `size` is a power of 2.
    """
    first, second = jnp.zeros_like(words[0]), jnp.zeros_like(words[0])
    for word in words:
        first = (first ^ word) * np.uint32(0x9E3779B1)
        first ^= first >> 15
        second = (second ^ word) * np.uint32(0x85EBCA77)
        second ^= second >> 13
    first = (first * np.uint32(0xC2B2AE3D)) ^ (first >> 16)
    return ((first + attempt.astype(jnp.uint32) * (second | 1)) & np.uint32(size - 1)).astype(
        jnp.int32
    )


def _same(words: tuple[Array, ...], others: tuple[Array, ...], index: Array) -> Array:
    """Returns where all words equal the others at `index`."""
    equal = [
        word == other.at[index].get(mode="promise_in_bounds")
        for word, other in zip(words, others, strict=True)
    ]
    return jnp.stack(equal).all(0)


def insert(words: tuple[Array, ...], pending: Array) -> tuple[Array, Array]:
    """Makes a hash table of pairs.

    Pairs with the same words try the same slots at the same time. Of those that meet at a free
    slot, the first pair becomes its owner, and all that have its words are done; the others try on.

    Returns:
      The table, and the owner of each pair's slot: the first pair with the same words.
    """
    (pairs,) = pending.shape
    size = 1 << math.ceil(math.log2(1.5 * pairs))

    def attempt(state):
        number, table, owners, pending = state
        slot = _slot(words, number, size)
        free = table.at[slot].get(mode="promise_in_bounds") == EMPTY
        numbers = jnp.arange(pairs, dtype=jnp.int32)
        table = table.at[jnp.where(pending & free, slot, size)].min(numbers, mode="drop")
        owner = jnp.minimum(table.at[slot].get(mode="promise_in_bounds"), pairs - 1)
        done = pending & _same(words, words, owner)
        return number + 1, table, jnp.where(done, owner, owners), pending & ~done

    empty = jnp.full(size, EMPTY, jnp.int32)
    start = jnp.int32(0), empty, jnp.zeros(pairs, jnp.int32), pending
    _, table, owners, _ = jax.lax.while_loop(lambda state: state[3].any(), attempt, start)
    return table, owners


def look_up(
    content: tuple[Array, tuple[Array, ...], Array], words: tuple[Array, ...], pending: Array
) -> Array:
    """Looks up words in a table.

    Args:
      content: the table, the words of its pairs, and the number that each pair stands for.
      words: [M] each.
      pending: bool [M], which of them are looked up.

    Returns:
      Their numbers, int32 [M]; -1 where there is none, or `pending` is False.
    """
    table, table_words, numbers = content

    def attempt(state):
        number, result, pending = state
        slot = _slot(words, number, len(table))
        owner = table.at[slot].get(mode="promise_in_bounds")
        taken = pending & (owner != EMPTY)
        same = taken & _same(words, table_words, jnp.where(taken, owner, 0))
        known = numbers.at[owner].get(mode="promise_in_bounds")
        return number + 1, jnp.where(same, known, result), taken & ~same

    start = jnp.int32(0), jnp.full(pending.shape, -1, jnp.int32), pending
    return jax.lax.while_loop(lambda state: state[2].any(), attempt, start)[1]
