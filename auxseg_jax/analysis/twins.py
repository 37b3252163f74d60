"""Plain numpy twins, in float64, of what must be exact: for `auxseg doctor` and the tests."""

import numpy as np


def random_walk(
    cam: np.ndarray, matrix: np.ndarray, *, beta: float, steps: int, normalize: bool, restart: float
) -> np.ndarray:
    """Returns what `pseudo.random_walk.random_walk` computes.

    Args:
      cam: [N, C] of one photo.
      matrix: its affinity [N, N].
      beta: see there.
      steps: see there.
      normalize: see there.
      restart: see there.
    """
    walk = matrix.astype(np.float64) ** beta
    if normalize:
        walk /= walk.sum(1, keepdims=True)
    start = state = cam.astype(np.float64)
    for _ in range(steps):
        state = (1 - restart) * walk @ state + restart * start
    return state


def mean_field(image: np.ndarray, unary: np.ndarray, options: dict) -> np.ndarray:
    """Returns what `inference.crf.mean_field` computes, with the whole N x N kernels.

    Args:
      image: [H, W, 3] in 0..255.
      unary: energies [H, W, L].
      options: those of `crf.CrfOptions` but for the filter.
    """
    height, width, labels = unary.shape
    position = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)
    near = np.exp(-_squares(position) / (2 * options["gaussian_sxy"] ** 2))
    alike = np.exp(
        -_squares(position) / (2 * options["bilateral_sxy"] ** 2)
        - _squares(colour) / (2 * options["bilateral_srgb"] ** 2)
    )
    energy = unary.reshape(-1, labels).astype(np.float64)
    state = _softmax(-energy)
    weights = options["gaussian_weight"], options["bilateral_weight"]
    for _ in range(options["iterations"]):
        messages = 0.0
        for weight, kernel in zip(weights, (near, alike), strict=True):
            norm = 1 / np.sqrt(kernel.sum(-1, keepdims=True))
            messages = messages + weight * norm * (kernel @ (norm * state))
        state = _softmax(messages - energy)
    return state.reshape(unary.shape)


def _squares(points: np.ndarray) -> np.ndarray:
    """Returns the squared distances of all pairs."""
    return ((points[:, None] - points[None]) ** 2).sum(-1)


def _softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
