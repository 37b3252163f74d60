"""What a backbone is to the rest of the package: one record, at the end of the backbone's file.

To add a backbone, write its module and its `Backbone` in one file, and name it in
`models.backbones`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import Float

from auxseg_jax.arrays import Array
from auxseg_jax.config.field import Field, one_of

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

OUTPUT_STRIDE = Field(16, "Pixels a cell of the features.", one_of(8, 16, 32))
REMAT = Field(False, "The backward pass computes residual blocks again: less memory, more time.")
"""Fields that several backbones have."""


class Attention(NamedTuple):
    """One attention head of a backbone, softmax_j(query_i . key_j) over the feature grid.

    Attributes:
      query: [B, h*w, D], with the head's scale multiplied in.
      key: [B, h*w, D].
    """

    query: Float[Array, "B N D"]
    key: Float[Array, "B N D"]


class BackboneOutput(NamedTuple):
    """What a backbone returns.

    Attributes:
      features: [B, h, w, K].
      attention: its attention heads, if it has any; they become sources of the pairwise affinity.
    """

    features: Array
    attention: Sequence[Attention] = ()


@dataclasses.dataclass(frozen=True)
class PackagedWeights:
    """ImageNet weights that a package on the package index brings.

    Attributes:
      package: its name for import.
      requirement: what to install.
      file: path within the package.
      sha256: checksum of the file.
    """

    package: str
    requirement: str
    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Backbone:
    """All that the package knows of a backbone.

    Attributes:
      module: called as module(**fields)(image, inside, train) -> BackboneOutput. `image` is float
        [B, H, W, 3], `inside` bool [B, H, W] or None (see `AuxSegNet`), `train` turns dropout on.
      mean: normalisation of RGB in 0..255 that it was trained with.
      std: likewise.
      fields: the fields of `config.model.backbone` beside its name; attributes of the module.
      stride: pixels a cell of the features, if there is no field `output_stride`.
      frozen: patterns of its parameters that never train.
      layers: patterns of its parameters from input to output, for the layer-wise rate decay.
      torch_module: turns a module's path here into its name in PyTorch's weights; None: there are
        no such weights.
      signature: pattern of a parameter's name, here or there, that only this backbone has.
      translate: renames the entries of another framework's weights to those of PyTorch; it returns
        None for weights that it does not know.
      imagenet: ImageNet weights that a package brings, or None.
    """

    module: type[nn.Module]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fields: Mapping[str, Field]
    stride: int = 8
    frozen: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    torch_module: Callable[[str], str] | None = None
    signature: str = ""
    translate: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray] | None] | None = None
    imagenet: PackagedWeights | None = None

    def section(self, name: str, **changes: Any) -> dict[str, Any]:
        """Returns a section `model.backbone` of a config.

        Args:
          name: its name in the table of backbones.
          **changes: fields with other values than their defaults.
        """
        defaults = {field: declared.default for field, declared in self.fields.items()}
        return {"name": name, **defaults, **changes}
