"""The dense CRF (Krähenbühl and Koltun, arXiv 1210.5644): labels that agree with their neighbours and with edges of the photo.

Mean field on a fully connected graph of pixels, Potts compatibility, symmetric normalisation:

    Q <- softmax(-U + sum_k w_k D_k K_k D_k Q),   D_k = diag(1 / sqrt(K_k 1))

with a Gaussian of position and a bilateral one of position and colour. K is applied by one of two filters:

    lattice   the permutohedral lattice, in time linear in the pixels: what pydensecrf computes, to float32 rounding
    exact     the Gaussians themselves, O(N^2): position by a separable convolution, colour in blocks of rows

They differ by nature: the lattice's kernel is a sum of bumps that depends on where points fall in its simplices, and colours
too far apart for a common vertex do not speak at all. The README says how many labels come out otherwise.

A pixel speaks to itself too, as in pydensecrf.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from auxseg_jax.pseudo import permutohedral

FILTERS = ("lattice", "exact")
_ENTRIES_AT_ONCE = 2**25  # of the N x N kernel, that `exact` holds
_LEAST_ROOM = 8192  # a smaller one would save nothing
_ROOMS = (0.15, 0.3, 0.6, 1.2)  # bilateral vertices a pixel; the least that is enough is taken, else room for all that can be

Filter = Callable[[jax.Array], jax.Array]


def mean_field(
    image: jax.Array,
    unary: jax.Array,
    inside: jax.Array,
    *,
    filter: str,
    iterations: int,
    gaussian_sxy: float,
    gaussian_weight: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_weight: float,
) -> jax.Array:
    """Probabilities [H, W, L] of the labels of a photo after some iterations of mean field.

    One photo at a time: under `jax.vmap` the photos of a bucket are done in turn.

    Args:
      image: [H, W, 3], RGB in 0..255 (colours beyond are clipped), not rounded.
      unary: U [H, W, L], energies: minus log of probabilities.
      inside: bool [H, W]; other pixels (padding of a bucket) take no part. What is returned for them means nothing.
      filter: one of FILTERS.
      iterations: 0 returns softmax(-U).
      gaussian_sxy, bilateral_sxy: standard deviations in pixels.
      bilateral_srgb: standard deviation in levels of colour.
      gaussian_weight, bilateral_weight: w_k.
    """
    run = {"lattice": _with_lattice, "exact": _with_exact}[filter]
    run = functools.partial(
        run,
        iterations=iterations,
        sxy=(gaussian_sxy, bilateral_sxy),
        srgb=bilateral_srgb,
        weights=(gaussian_weight, bilateral_weight),
    )
    image, unary = (jnp.where(inside[..., None], x, 0) for x in (jnp.clip(image, 0, 255), unary))
    return jax.custom_batching.sequential_vmap(run)(image, unary, inside)


def saliency(image: jax.Array, probability: jax.Array, inside: jax.Array, **options) -> jax.Array:
    """Saliency [H, W] in 0..1 sharpened by the photo (`crf_for_sal` of the authors' code).

    The energies are -log(p + 1e-8) / (1.05 sigmoid(p)) for p = (1 - S, S).

    Args:
      image, inside, options: see `mean_field`.
      probability: S [H, W].
    """
    probability = jnp.clip(probability, 0, 1)  # a resized 1 may be 1 and a rounding error, and the log of what is left NaN
    p = jnp.stack([1 - probability, probability], -1)
    return mean_field(image, -jnp.log(p + 1e-8) / (1.05 * jax.nn.sigmoid(p)), inside, **options)[..., 1]


def segmentation(image: jax.Array, probabilities: jax.Array, inside: jax.Array, **options) -> jax.Array:
    """Class probabilities [H, W, C+1] sharpened by the photo; the energies are -log of `probabilities`, at least 1e-5.

    Args:
      image, inside, options: see `mean_field`.
      probabilities: [H, W, C+1].
    """
    return mean_field(image, -jnp.log(jnp.clip(probabilities, 1e-5, 1)), inside, **options)


def _iterate(filters: tuple[Filter, Filter], unary: jax.Array, inside: jax.Array, iterations: int, weights: tuple[float, float]) -> jax.Array:
    """Mean field on pixels in a row: unary [N, L], inside [N]."""
    ones = inside.astype(unary.dtype)[:, None]
    kernels = [(weight, jax.lax.rsqrt(apply(ones) + 1e-20) * ones, apply) for weight, apply in zip(weights, filters, strict=True) if weight]

    def step(_, state):
        messages = sum(weight * norm * apply(norm * state) for weight, norm, apply in kernels)
        return jax.nn.softmax(messages - unary)

    return jax.lax.fori_loop(0, iterations, step, jax.nn.softmax(-unary))


def _features(image: jax.Array, sxy: float, srgb: float | None) -> jax.Array:
    """[N, 2 or 5]: x / sxy, y / sxy and the colours / srgb."""
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij")
    planes = [x / sxy, y / sxy] + ([image[..., c] / srgb for c in range(3)] if srgb else [])
    return jnp.stack(planes, -1).reshape(-1, len(planes))


def _with_lattice(image, unary, inside, *, iterations, sxy, srgb, weights):
    height, width, labels = unary.shape
    limits = [[(width - 1) / s, (height - 1) / s] for s in sxy]
    limits[1] += [255 / srgb] * 3
    flat_inside = inside.reshape(-1)
    found = [permutohedral.find_vertices(_features(image, s, c), flat_inside, limit) for s, c, limit in zip(sxy, (None, srgb), limits, strict=True)]
    most = [permutohedral.most_vertices(height * width, limit) for limit in limits]

    def run(room: int, found) -> jax.Array:
        lattices = [permutohedral.with_capacity(vertices, limit) for vertices, limit in zip(found, (most[0], room), strict=True)]
        filters = tuple(functools.partial(permutohedral.blur, lattice) for lattice in lattices)
        return _iterate(filters, unary.reshape(-1, labels), flat_inside, iterations, weights)

    rooms = sorted({min(max(math.ceil(share * height * width), _LEAST_ROOM), most[1]) for share in _ROOMS} | {most[1]})
    enough = jnp.searchsorted(jnp.asarray(rooms), found[1].count)
    return jax.lax.switch(enough, [functools.partial(run, room) for room in rooms], found).reshape(unary.shape)


def _with_exact(image, unary, inside, *, iterations, sxy, srgb, weights):
    height, width, labels = unary.shape
    pixels = height * width
    features = _features(image, sxy[1], srgb)
    rows = min(pixels, max(1, _ENTRIES_AT_ONCE // pixels))
    along_y, along_x = (jnp.exp(-0.5 * ((jnp.arange(n)[:, None] - jnp.arange(n)) / sxy[0]) ** 2) for n in (height, width))
    multiply = functools.partial(jnp.einsum, precision="highest")

    def gaussian(values: jax.Array) -> jax.Array:
        plane = multiply("yi,ixc->yxc", along_y, values.reshape(height, width, -1))
        return multiply("xj,yjc->yxc", along_x, plane).reshape(values.shape)

    def bilateral(values: jax.Array) -> jax.Array:
        def of_pixel(feature: jax.Array) -> jax.Array:
            # differences, not a matrix product of features: its rounding would be that of the large squares
            squares = sum((features[:, k] - feature[k]) ** 2 for k in range(features.shape[1]))
            return multiply("j,jc->c", jnp.exp(-0.5 * squares), values)

        return jax.lax.map(of_pixel, features, batch_size=rows)

    return _iterate((gaussian, bilateral), unary.reshape(-1, labels), inside.reshape(-1), iterations, weights).reshape(unary.shape)
