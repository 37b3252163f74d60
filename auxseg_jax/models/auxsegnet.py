"""AuxSegNet+: one backbone, three branches, affinities across them (arXiv 2107.11787 and 2403.01156).

Parameter paths say the paper's part: backbone/..., cls_head/kernel, {seg,sal}_branch/conv_{1,2}, {seg,sal}_affinity/theta,
{seg,sal}_head/{conv,predict}, cross_pairwise/conv_3x3, cross_unary/conv_3x3, {seg,sal}_gamma. Learning-rate groups, frozen
parameters and weight loading go by them.

Initialisation is the authors': Xavier-uniform kernels in the branches and heads, PyTorch's default everywhere else.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from auxseg_jax import trees
from auxseg_jax.grid import Grid
from auxseg_jax.models import efficientnet_lite, resnet, resnet38, tiny
from auxseg_jax.models.affinity import CrossTaskFusion, TaskAffinity, fuse, fuse_pairwise, refine
from auxseg_jax.models.layers import resize_nearest, uniform_init, zero_outside

BACKBONES = {
    "efficientnet_lite0": efficientnet_lite.EfficientNetLite0,
    "resnet38": resnet38.ResNet38,
    "resnet50": resnet.ResNet50,
    "resnet101": resnet.ResNet101,
    "tiny": tiny.Tiny,
}
_NORMALISATION = {
    "efficientnet_lite0": {"mean": efficientnet_lite.MEAN, "std": efficientnet_lite.STD},
    **{name: {"mean": resnet38.MEAN, "std": resnet38.STD} for name in ("resnet38", "resnet50", "resnet101")},
    "tiny": {"mean": tiny.MEAN, "std": tiny.STD},
}
REFINE = ("none", "seg", "both")
DTYPES = ("float32", "bfloat16")


class TaskBranch(nn.Module):
    """E = relu(conv3x3 rate r2 (relu(conv3x3 rate r1 (F)))): backbone features to task features [B, h, w, channels]."""

    channels: int
    dilations: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        for number, rate in enumerate(self.dilations, 1):
            x = nn.relu(_conv3x3(x.shape[-1], self.channels, rate, f"conv_{number}")(zero_outside(x, inside)))
        return x


class TaskHead(nn.Module):
    """Initial logits from the enhanced features: an optional dilated 3x3 convolution + relu, then 1x1 without bias."""

    outputs: int
    dilation: int | None

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None) -> jax.Array:
        if self.dilation is not None:
            x = nn.relu(_conv3x3(x.shape[-1], x.shape[-1], self.dilation, "conv")(zero_outside(x, inside)))
        return nn.Conv(self.outputs, (1, 1), use_bias=False, kernel_init=nn.initializers.xavier_uniform(), name="predict")(x)


def _conv3x3(inputs: int, features: int, rate: int, name: str) -> nn.Conv:
    init = {**uniform_init(9 * inputs), "kernel_init": nn.initializers.xavier_uniform()}
    return nn.Conv(features, (3, 3), kernel_dilation=rate, padding=rate, **init, name=name)


class AuxSegNet(nn.Module):
    """The network. Every field is a field of the config, named there `model.*`, `affinity.*` and `tasks.*`.

    Attributes:
      num_classes: C foreground classes; background is index 0 of the C + 1 segmentation channels.
      backbone: {"name": one of BACKBONES, ...fields of that backbone}.
      channels: D, channels of a task branch.
      dilations: rates of the two branch convolutions and of the head's. The paper's 6, 12, 18 are for stride 8.
      head_conv: the third of them, before the 1x1 prediction (the authors' code has it, the ICCV text does not).
      dropout: channel-wise rate before the classification layer; CAMs and the dense branches see features without it.
      affinity: pairwise, unary, cross_task, refine, whiten, scale, normalize_rows, block_mib (see README, "Switches").
      tasks: cls, sal: whether the branch is there.
      dtype: of the computation, "float32" or "bfloat16"; softmax over positions and sums of rows stay float32. It takes parameters of
        that type: see `cast`. Outputs are float32 but for the affinities.

    Call:
      image: float32 [B, H, W, 3], normalised for the backbone.
      train: dropout on; needs the rng "dropout".
      inside: bool [B, H, W] or None: which pixels are photo and not padding of a bucket. Padding is zero to every
        convolution and left out of the pool and of the affinities' keys: a photo gives the same outputs in every bucket
        of the grid (see `grid`), but for `cross_task`, whose 3x3 convolution sees rows of the N x N plane side by side.
      dense: False stops after the classification branch (its training, its CAMs).

    Returns a dict; the caller picks, XLA prunes the rest:
      cls_logits [B, C], cam [B, h, w, C] (class scores per position, before relu)    if tasks.cls
      seg {"initial", "refined"} logits [B, h, w, C+1]                                refined if affinity.refine is not none
      sal {"initial", "refined"} logits [B, h, w, 1]                                  if tasks.sal; refined if refine is both
      affinity, a `Pairwise` of [B, N, N] (cross-task if there are two tasks), unary [B, N]    if the switch is on
    """

    num_classes: int
    backbone: Any
    channels: int
    dilations: Sequence[int]
    head_conv: bool
    dropout: float
    affinity: Any
    tasks: Any
    dtype: str = "float32"

    def cast(self, params: dict) -> dict:
        """Parameters in the type of the computation, but for those of batch normalisation, whose small variances would suffer."""
        flat = trees.flatten(params)
        kept = {name for name in flat if f"{name.rpartition('/')[0]}/var" in flat}
        return trees.unflatten({name: value if name in kept else value.astype(self.dtype) for name, value in flat.items()})

    def shared_by(self, devices: int) -> "AuxSegNet":
        """The same network where so many devices share a batch: `affinity.block_mib` is meant for one of them."""
        block_mib = self.affinity.get("block_mib", TaskAffinity.block_mib)
        return self.clone(affinity={**self.affinity, "block_mib": devices * block_mib})

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, inside: jax.Array | None = None, dense: bool = True) -> dict[str, Any]:
        spec = dict(self.backbone)
        if not self.is_initializing():  # then parameters are float32
            image = image.astype(self.dtype)
        features = BACKBONES[spec.pop("name")](**spec, name="backbone")(image, inside, train)
        if inside is not None:
            inside = resize_nearest(inside, features.shape[1:3])
        outputs: dict[str, Any] = {}
        if self.tasks["cls"]:
            outputs |= self._classify(features, train, inside)
        if not dense:
            return outputs
        return outputs | self._segment(features, inside)

    def _classify(self, features, train, inside):
        dense = nn.Dense(self.num_classes, use_bias=False, kernel_init=nn.initializers.xavier_uniform(), name="cls_head")
        dropped = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(features)
        if inside is None:
            pooled = dropped.mean((1, 2))
        else:
            weight = inside[..., None].astype(dropped.dtype)
            pooled = (dropped * weight).sum((1, 2)) / jnp.maximum(weight.sum((1, 2)), 1)
        return _float32({"cls_logits": dense(pooled), "cam": dense(features)})

    def _segment(self, features, inside):
        switches = dict(self.affinity)
        cross_task, mode, normalized = (switches.pop(k) for k in ("cross_task", "refine", "normalize_rows"))
        outputs: dict[str, Any] = {}
        pairwise, unary = [], []
        for task, channels in (("seg", self.num_classes + 1), ("sal", 1)):
            if task == "sal" and not self.tasks["sal"]:
                continue
            embedded = TaskBranch(self.channels, self.dilations[:2], name=f"{task}_branch")(features, inside)
            enhanced, affinity, attention = TaskAffinity(**switches, name=f"{task}_affinity")(embedded, inside)
            rate = self.dilations[2] if self.head_conv else None
            outputs[task] = _float32({"initial": TaskHead(channels, rate, name=f"{task}_head")(enhanced, inside)})
            pairwise.append(affinity)
            unary.append(attention)
        # One task, or cross_task off: the segmentation task's own affinity serves.
        affinity, attention = pairwise[0], unary[0]
        if cross_task and len(pairwise) == 2:
            if affinity is not None:
                affinity = fuse_pairwise(pairwise, CrossTaskFusion(name="cross_pairwise")())
            if attention is not None:
                maps = [u.reshape(features.shape[:3]) for u in unary]
                attention = fuse(maps, CrossTaskFusion(name="cross_unary")()).reshape(attention.shape)
        if affinity is not None:
            outputs["affinity"] = affinity = affinity.normalize_rows() if normalized else affinity
        if attention is not None:
            outputs["unary"] = attention
        refined = [task for task in {"none": (), "seg": ("seg",), "both": ("seg", "sal")}[mode] if task in outputs]
        if refined:
            # gamma starts at 0, so that the network starts as AuxSegNet
            gammas = [self.param(f"{task}_gamma", nn.initializers.zeros, ()) if attention is not None else 0.0 for task in refined]
            predictions = refine([outputs[task]["initial"] for task in refined], affinity, attention, gammas)
            for task, prediction in zip(refined, predictions, strict=True):
                outputs[task]["refined"] = prediction
        return outputs


def _float32(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: value.astype(jnp.float32) for name, value in outputs.items()}


def final(predictions: dict[str, jax.Array]) -> jax.Array:
    """The prediction to use of {"initial", "refined"}: the refined one where there is one."""
    return predictions.get("refined", predictions["initial"])


def build(*, num_classes: int, model: Any, affinity: Any, tasks: Any) -> AuxSegNet:
    """The network of a config's sections; raises ValueError on switches that contradict each other."""
    model, affinity, tasks = dict(model), dict(affinity), dict(tasks)
    name = model["backbone"]["name"]
    if name not in BACKBONES:
        raise ValueError(f"model.backbone.name={name!r} is not one of {', '.join(BACKBONES)}")
    if affinity["refine"] not in REFINE:
        raise ValueError(f"affinity.refine={affinity['refine']!r} is not one of {', '.join(REFINE)}")
    if affinity["refine"] != "none" and not (affinity["pairwise"] or affinity["unary"]):
        raise ValueError(f"affinity.refine={affinity['refine']!r} needs affinity.pairwise or affinity.unary; with neither, set it to 'none'")
    if len(model["dilations"]) != 3:
        raise ValueError(f"model.dilations needs 3 rates (two of the branch, one of the head), got {model['dilations']}")
    model["backbone"] = dict(model["backbone"])
    model["dilations"] = tuple(model["dilations"])
    return AuxSegNet(num_classes=num_classes, affinity=affinity, tasks=tasks, **model)


def normalisation(model: Any) -> dict[str, tuple[float, ...]]:
    """{"mean", "std"} on the 0..255 scale, of RGB, that the backbone was trained with."""
    return _NORMALISATION[model["backbone"]["name"]]


def colours(network: AuxSegNet, image: jax.Array) -> jax.Array:
    """RGB in 0..255 of photos that were normalised for `network`."""
    spec = _NORMALISATION[network.backbone["name"]]
    return jnp.round(image * jnp.asarray(spec["std"]) + jnp.asarray(spec["mean"]))


def grid(model: Any, crop: int) -> Grid:
    """The sizes of whole photos that suit a network trained on crops of `crop` pixels."""
    stride = model["backbone"].get("output_stride", 8)  # of ResNet38, which has no choice
    return Grid(stride, crop % stride)
