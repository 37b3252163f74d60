"""Image-level classification of the photos of a split."""

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from auxseg_jax.arrays import Array
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.inference import passes
from auxseg_jax.models import auxsegnet


def classify(
    name: str, network: nn.Module, params: dict, reader: PhotoReader, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Runs the classification branch over the photos of `reader`.

    Args:
      name: name on the progress bar.
      network: the network.
      params: its parameters.
      reader: photos with labels.
      mesh: see `passes.run`.

    Returns:
      (logits [P, C], labels [P, C]), in the order of the ids.
    """
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def predict(params: dict, batch: dict) -> dict[str, Array]:
        variables = {"params": network.cast(params)}
        inside = batch["inside"]
        image = auxsegnet.normalize(network, batch["image"], inside)
        outputs = network.apply(variables, image, inside=inside, dense=False)
        return {"logits": outputs["cls_logits"], "labels": batch["labels"]}

    def keep(key: str, row: dict) -> None:
        rows[key] = row["logits"], row["labels"]

    passes.run(name, passes.PhotoFunction(predict, mesh), params, reader, keep, mesh)
    if not rows:  # There are more hosts than photos.
        empty = np.zeros((0, network.num_classes), np.float32)
        return empty, empty
    logits, labels = zip(*(rows[key] for key in sorted(rows)), strict=True)
    return np.stack(logits), np.stack(labels)
