"""ResNet38 (Wu et al., arXiv 1611.10080, their model A): the paper's backbone, at stride 8.

It is a wide residual network with batch normalisation and relu before the convolutions.

Parameter paths: conv1a; b2, b2_1, ... b7, each bn_branch2a, conv_branch2a, bn_branch2b1,
conv_branch2b1 (bottlenecks also bn_branch2b2, conv_branch2b2) and conv_branch1; bn7. These are the
parameter names of the public checkpoints.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import Bool, Float

from auxseg_jax.arrays import Array
from auxseg_jax.models.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    REMAT,
    Backbone,
    BackboneOutput,
)
from auxseg_jax.models.layers import Conv3x3, FrozenBatchNorm, PointwiseConv


class _Stage(NamedTuple):
    """Blocks of one size; `first_dilation` is that of the first convolution alone."""

    name: str
    blocks: int
    inner: int
    features: int
    stride: int
    first_dilation: int
    dilation: int


_STAGES = (
    _Stage("b2", 3, 128, 128, 2, 1, 1),
    _Stage("b3", 3, 256, 256, 2, 1, 1),
    _Stage("b4", 6, 512, 512, 2, 1, 1),
    _Stage("b5", 3, 512, 1024, 1, 1, 2),
)
# The columns are those of `Bottleneck`, after the name.
_BOTTLENECKS = (("b6", 512, 1024, 2048, 0.3), ("b7", 1024, 2048, 4096, 0.5))


class Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and relu, added to their input.

    Where shapes change, the shortcut is a 1x1 convolution of relu(bn(x)).
    """

    inner: int
    features: int
    stride: int
    first_dilation: int
    dilation: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], inside: Bool[Array, "B H W"] | None
    ) -> Float[Array, "B _ _ _"]:
        y = nn.relu(FrozenBatchNorm(name="bn_branch2a")(x))
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.features:
            shortcut = PointwiseConv(self.features, self.stride, name="conv_branch1")(y)
        y = Conv3x3(self.inner, self.stride, self.first_dilation, name="conv_branch2a")(y, inside)
        y = nn.relu(FrozenBatchNorm(name="bn_branch2b1")(y))
        return shortcut + Conv3x3(self.features, 1, self.dilation, name="conv_branch2b1")(y, inside)


class Bottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolutions, with channel-wise dropout before the last two.

    The shortcut is always a convolution.
    """

    reduced: int
    inner: int
    features: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], inside: Bool[Array, "B H W"] | None, train: bool
    ) -> Float[Array, "B _ _ _"]:
        def activate(y: Float[Array, "B h w C"], name: str) -> Float[Array, "B h w C"]:
            return nn.relu(FrozenBatchNorm(name=name)(y))

        def drop(y: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
            dropout = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)
            return dropout(y)

        y = activate(x, "bn_branch2a")
        shortcut = PointwiseConv(self.features, name="conv_branch1")(y)
        y = PointwiseConv(self.reduced, name="conv_branch2a")(y)
        y = Conv3x3(self.inner, dilation=4, name="conv_branch2b1")(
            drop(activate(y, "bn_branch2b1")), inside
        )
        y = drop(activate(y, "bn_branch2b2"))
        return shortcut + PointwiseConv(self.features, name="conv_branch2b2")(y)


class ResNet38(nn.Module):
    """Image [B, H, W, 3], ImageNet normalisation -> features [B, ceil(H/8), ceil(W/8), 4096].

    Attributes:
      remat: the backward pass computes residual blocks again instead of keeping them: less memory,
        more time.
    """

    remat: bool = False

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        inside: Bool[Array, "B H W"] | None = None,
        train: bool = False,
    ) -> BackboneOutput:
        block = nn.remat(Block) if self.remat else Block
        bottleneck = Bottleneck
        if self.remat:
            bottleneck = nn.remat(Bottleneck, static_argnums=(3,))
        x = Conv3x3(64, name="conv1a")(image, inside)
        for name, count, inner, features, stride, first_dilation, dilation in _STAGES:
            x = block(inner, features, stride, first_dilation, dilation, name=name)(x, inside)
            for index in range(1, count):
                x = block(inner, features, 1, dilation, dilation, name=f"{name}_{index}")(x, inside)
        for name, reduced, inner, features, dropout in _BOTTLENECKS:
            x = bottleneck(reduced, inner, features, dropout, name=name)(x, inside, train)
        return BackboneOutput(nn.relu(FrozenBatchNorm(name="bn7")(x)))


def from_mxnet(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Renames MXNet's weights of this network to PyTorch's names; None if they are not MXNet's.

    MXNet calls b3_1.conv_branch2a.weight "arg:res3b1_branch2a_weight", and bn7.running_mean
    "aux:bn7_moving_mean".
    """
    if not any(name.startswith(("arg:", "aux:")) for name in state):
        return None
    leaves = {
        "weight": "weight",
        "gamma": "weight",
        "beta": "bias",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }
    renamed = {}
    for name, value in state.items():
        first, *rest = name.partition(":")[2].split("_")
        block = re.fullmatch(r"(res|bn)(\d)(a|b(\d+))", first)
        if block and rest[0].startswith("branch"):
            kind = "conv" if block[1] == "res" else "bn"
            number = f"_{block[4]}" if block[4] else ""
            module = f"b{block[2]}{number}.{kind}_{rest[0]}"
        else:
            module = first
        renamed[f"{module}.{leaves.get(rest[-1], rest[-1]) if rest else ''}"] = value
    return renamed


BACKBONE = Backbone(
    module=ResNet38,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fields={"remat": REMAT},
    # The authors freeze all batch normalisations and the first convolution.
    frozen=(r"backbone/.*bn.*", r"backbone/conv1a/.*"),
    layers=(
        r"backbone/conv1a/.*",
        *(rf"backbone/b{k}(_\d)?/.*" for k in range(2, 8)),
        r"backbone/bn7/.*",
    ),
    torch_module=lambda path: path.replace("/", "."),
    signature=r"b5_1[./]|(arg|aux):",
    translate=from_mxnet,
)
