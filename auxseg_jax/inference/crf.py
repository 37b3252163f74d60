"""The dense CRF: labels that agree with their neighbours and with edges of the photo.

Source: Krähenbühl and Koltun, arXiv 1210.5644.

Mean field on a fully connected graph of pixels, Potts compatibility, symmetric normalisation:

    Q <- softmax(-U + sum_k w_k D_k K_k D_k Q),   D_k = diag(1 / sqrt(K_k 1))

with a Gaussian of position and a bilateral one of position and colour. K is applied by one of two
filters:

    lattice   the permutohedral lattice, in time linear in the pixels: what pydensecrf computes, to
              float32 rounding
    exact     the Gaussians themselves, O(N^2): position by a separable convolution, colour in
              blocks of rows

They differ by nature: the lattice's kernel is a sum of bumps that depends on where points fall in
its simplices, and colours too far apart for a common vertex do not interact at all. docs/crf.md
says how many labels come out otherwise.

A pixel sends a message to itself, too, as in pydensecrf.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.inference import permutohedral
from auxseg_jax.models import precision

FILTERS = ("lattice", "exact")
_KERNEL_ENTRIES_AT_ONCE = 2**25  # Part of the N x N kernel that `exact` holds.
# The iterations run with room for so many bilateral vertices a pixel: the least that is enough,
# else room for all vertices that there can be.
_VERTICES_A_PIXEL = (0.15, 0.3, 0.6, 1.2)
_LEAST_CAPACITY = 8192  # A smaller one would save nothing.

Filter = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class CrfOptions:
    """The kernels and the iterations: the config's `crf.*`.

    Attributes:
      filter: one of FILTERS.
      iterations: 0 returns softmax(-U).
      gaussian_sxy: standard deviation of the kernel of position, pixels.
      gaussian_weight: its weight w_k.
      bilateral_sxy: standard deviation of position of the other kernel, pixels.
      bilateral_srgb: its standard deviation of colour, levels of 0..255.
      bilateral_weight: its weight.
    """

    filter: str
    iterations: int
    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float


def mean_field(
    image: Float[Array, "H W 3"],
    unary: Float[Array, "H W L"],
    inside: Bool[Array, "H W"],
    options: CrfOptions,
) -> Float[Array, "H W L"]:
    """Returns the probabilities of the labels of a photo after some iterations of mean field.

    It does one photo at a time: under `jax.vmap` the photos of a bucket are done in turn.

    Args:
      image: RGB in 0..255 (colours beyond are clipped), not rounded.
      unary: U, energies: minus the logarithm of probabilities.
      inside: other pixels (padding of a bucket) take no part. What is returned for them means
        nothing.
      options: kernels and iterations.
    """
    function = {"lattice": _with_lattice, "exact": _with_exact}[options.filter]
    run = functools.partial(function, options=options)
    image, unary = (jnp.where(inside[..., None], x, 0) for x in (jnp.clip(image, 0, 255), unary))
    with precision.exact():
        return jax.custom_batching.sequential_vmap(run)(image, unary, inside)


def saliency(
    image: Float[Array, "H W 3"],
    probability: Float[Array, "H W"],
    inside: Bool[Array, "H W"],
    options: CrfOptions,
) -> Float[Array, "H W"]:
    """Returns saliency in 0..1, sharpened by the photo (`crf_for_sal` of the authors' code).

    The energies are -log(p + 1e-8) / (1.05 sigmoid(p)) for p = (1 - S, S).

    Args:
      image: see `mean_field`.
      probability: S.
      inside: see `mean_field`.
      options: see `mean_field`.
    """
    # A resized 1 may exceed 1 by a rounding error; the logarithm of the rest would be NaN.
    probability = jnp.clip(probability, 0, 1)
    p = jnp.stack([1 - probability, probability], -1)
    energies = -jnp.log(p + 1e-8) / (1.05 * jax.nn.sigmoid(p))
    return mean_field(image, energies, inside, options)[..., 1]


def segmentation(
    image: Float[Array, "H W 3"],
    probabilities: Float[Array, "H W L"],
    inside: Bool[Array, "H W"],
    options: CrfOptions,
) -> Float[Array, "H W L"]:
    """Returns class probabilities, sharpened by the photo.

    The energies are -log of `probabilities`, which count as at least 1e-5.

    Args:
      image: see `mean_field`.
      probabilities: those of background and classes.
      inside: see `mean_field`.
      options: see `mean_field`.
    """
    return mean_field(image, -jnp.log(jnp.clip(probabilities, 1e-5, 1)), inside, options)


def _iterate(
    filters: tuple[Filter, Filter],
    unary: Float[Array, "N L"],
    inside: Bool[Array, " N"],
    options: CrfOptions,
) -> Float[Array, "N L"]:
    """Runs mean field on pixels in a row."""
    ones = inside.astype(unary.dtype)[:, None]
    weights = options.gaussian_weight, options.bilateral_weight
    kernels = [
        (weight, jax.lax.rsqrt(apply(ones) + 1e-20) * ones, apply)
        for weight, apply in zip(weights, filters, strict=True)
        if weight
    ]

    def step(_, state):
        messages = sum(weight * norm * apply(norm * state) for weight, norm, apply in kernels)
        return jax.nn.softmax(messages - unary)

    return jax.lax.fori_loop(0, options.iterations, step, jax.nn.softmax(-unary))


def _features(image: Array, sxy: float, srgb: float | None) -> Array:
    """Returns [N, 2 or 5]: x / sxy, y / sxy and the colours / srgb."""
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in image.shape[:2])
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    planes = [x / sxy, y / sxy] + ([image[..., c] / srgb for c in range(3)] if srgb else [])
    return jnp.stack(planes, -1).reshape(-1, len(planes))


def _with_lattice(image, unary, inside, options: CrfOptions):
    sxy, srgb = (options.gaussian_sxy, options.bilateral_sxy), options.bilateral_srgb
    height, width, labels = unary.shape
    limits = [[(width - 1) / s, (height - 1) / s] for s in sxy]
    limits[1] += [255 / srgb] * 3
    flat_inside = inside.reshape(-1)
    colours = (None, srgb)
    vertices = [
        permutohedral.find_vertices(_features(image, s, c), flat_inside, limit)
        for s, c, limit in zip(sxy, colours, limits, strict=True)
    ]
    most = [permutohedral.most_vertices(height * width, limit) for limit in limits]

    def run(capacity: int, vertices) -> Array:
        lattices = [
            permutohedral.with_capacity(found_vertices, size)
            for found_vertices, size in zip(vertices, (most[0], capacity), strict=True)
        ]
        filters = tuple(functools.partial(permutohedral.blur, lattice) for lattice in lattices)
        return _iterate(filters, unary.reshape(-1, labels), flat_inside, options)

    pixels = height * width
    wanted = (max(math.ceil(share * pixels), _LEAST_CAPACITY) for share in _VERTICES_A_PIXEL)
    capacities = sorted({min(capacity, most[1]) for capacity in wanted} | {most[1]})
    enough = jnp.searchsorted(jnp.asarray(capacities), vertices[1].count)
    branches = [functools.partial(run, capacity) for capacity in capacities]
    return jax.lax.switch(enough, branches, vertices).reshape(unary.shape)


def _with_exact(image, unary, inside, options: CrfOptions):
    sxy, srgb = (options.gaussian_sxy, options.bilateral_sxy), options.bilateral_srgb
    height, width, labels = unary.shape
    pixels = height * width
    features = _features(image, sxy[1], srgb)
    rows = min(pixels, max(1, _KERNEL_ENTRIES_AT_ONCE // pixels))
    along_y, along_x = (
        jnp.exp(-0.5 * ((jnp.arange(n)[:, None] - jnp.arange(n)) / sxy[0]) ** 2)
        for n in (height, width)
    )

    def gaussian(values: Array) -> Array:
        plane = jnp.einsum("yi,ixc->yxc", along_y, values.reshape(height, width, -1))
        return jnp.einsum("xj,yjc->yxc", along_x, plane).reshape(values.shape)

    def bilateral(values: Array) -> Array:
        def pixel_message(feature: Array) -> Array:
            # These are differences, not a matrix product of features: its rounding would be that of
            # the large squares.
            squares = sum((features[:, k] - feature[k]) ** 2 for k in range(features.shape[1]))
            return jnp.einsum("j,jc->c", jnp.exp(-0.5 * squares), values)

        return jax.lax.map(pixel_message, features, batch_size=rows)

    flat, flat_inside = unary.reshape(-1, labels), inside.reshape(-1)
    result = _iterate((gaussian, bilateral), flat, flat_inside, options)
    return result.reshape(unary.shape)
