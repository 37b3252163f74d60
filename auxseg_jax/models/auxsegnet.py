"""AuxSegNet+: one backbone, three branches, affinities across them.

Sources: arXiv 2107.11787 and 2403.01156.

Parameter paths say the paper's part: backbone/..., cls_head/kernel, {seg,sal}_branch/conv_{1,2},
{seg,sal}_affinity/theta, {seg,sal}_head/{conv,predict}, cross_pairwise/conv_3x3,
cross_unary/conv_3x3, {seg,sal}_gamma. Learning-rate groups, frozen parameters and weight loading go
by them.

Initialisation is the authors': Xavier-uniform kernels in the branches and heads, PyTorch's default
everywhere else.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, UInt8

from auxseg_jax import trees
from auxseg_jax.arrays import Array
from auxseg_jax.grid import Grid
from auxseg_jax.models import backbones
from auxseg_jax.models import precision as precision_lib
from auxseg_jax.models.affinity import TaskAffinity, refine
from auxseg_jax.models.backbone import Attention
from auxseg_jax.models.branches import TaskBranch, TaskHead
from auxseg_jax.models.fusion import CrossTaskFusion, fuse
from auxseg_jax.models.layers import cells_inside
from auxseg_jax.models.pairwise import Pairwise, combine, rows_per_block

REFINED_TASKS = {"none": (), "seg": ("seg",), "both": ("seg", "sal")}
"""Tasks whose prediction gets a refined twin, by the value of `affinity.refine`."""

# Switches of `affinity` that are the network's, and not of the affinity of one task.
_NETWORK_SWITCHES = ("cross_task", "refine", "normalize_rows", "backbone_attention")

# Parameters of the affinities, of their fusion, and of what they refine.
_EXACT_PARAMETERS = r"(seg|sal)_(affinity|gamma)|cross_"


class AuxSegNet(nn.Module):
    """The network. Its fields are the config's `model.*`, `affinity.*` and `tasks.*`.

    Attributes:
      num_classes: C foreground classes; background is index 0 of the C + 1 segmentation channels.
      backbone: {"name": a key of `backbones.BACKBONES`, ...fields of that backbone}.
      channels: D, channels of a task branch.
      dilations: rates of the two branch convolutions and of the head's.
      head_conv: whether the head has its dilated convolution.
      dropout: channel-wise rate before the classification layer. CAMs and the dense branches see
        features without it.
      affinity: the switches of `config.affinity`.
      tasks: {"cls", "sal"}: whether the branch is there.
      precision: one of `precision.PRECISIONS`, for the convolutions. Affinities and what they
        refine are exact. It takes parameters of the type that belongs to it: see `cast`. Outputs
        are float32.
      mask_padding: whether `inside` counts in training, too. The papers' networks are trained as if
        the padding of a crop were photo.
    """

    num_classes: int
    backbone: Any
    channels: int
    dilations: Sequence[int]
    head_conv: bool
    dropout: float
    affinity: Any
    tasks: Any
    precision: str = "tensorfloat32"
    mask_padding: bool = False

    def cast(self, params: dict) -> dict:
        """Casts parameters to the type of the convolutions.

        Those of batch normalisation stay float32, for their small variances would suffer, and so do
        those of what is exact.
        """
        dtype = precision_lib.dtype(self.precision)
        flat = trees.flatten(params)
        normalisation = {name for name in flat if f"{name.rpartition('/')[0]}/var" in flat}
        exact = {name for name in flat if re.match(_EXACT_PARAMETERS, name)}
        return trees.unflatten(
            {
                name: value if name in normalisation | exact else value.astype(dtype)
                for name, value in flat.items()
            }
        )

    def shared_by(self, devices: int) -> "AuxSegNet":
        """Returns the network for a batch that so many devices share.

        `affinity.block_mib` is the memory of one of them.
        """
        block_mib = self.affinity.get("block_mib", TaskAffinity.block_mib)
        return self.clone(affinity={**self.affinity, "block_mib": devices * block_mib})

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        train: bool = False,
        inside: Bool[Array, "B H W"] | None = None,
        dense: bool = True,
    ) -> dict[str, Any]:
        """Runs the network.

        Args:
          image: normalised for the backbone.
          train: dropout on; needs the rng "dropout".
          inside: which pixels are photo and not padding, of a bucket or of a crop. Padding is zero
            to every convolution, and left out of the pool and of the affinities' keys. A photo
            gives the same outputs in every bucket of the grid (see `grid`), but for `cross_task`,
            whose 3x3 convolution sees rows of the N x N plane side by side.
          dense: False stops after the classification branch (its training, its CAMs).

        Returns:
          A dict. The caller picks, and XLA prunes the rest:
          cls_logits [B, C], cam [B, h, w, C], class scores of each position before relu, if
          tasks.cls; seg {"initial", "refined"} logits [B, h, w, C+1], refined if affinity.refine is
          not none; sal {"initial", "refined"} logits [B, h, w, 1], if tasks.sal, refined if refine
          is both; affinity, a `Pairwise` of [B, N, N], and unary [B, N], if the switch is on.
        """
        fields = dict(self.backbone)
        record = backbones.find(fields.pop("name"))
        outputs: dict[str, Any] = {}
        if train and not self.mask_padding:
            inside = None
        with precision_lib.convolutions(self.precision):
            backbone = record.module(**fields, name="backbone")
            features, attention = backbone(self._cast_array(image), inside, train)
            if inside is not None:
                inside = cells_inside(inside, features.shape[1:3])
            if self.tasks["cls"]:
                outputs |= self._classify(features, train, inside)
        if not dense:
            return outputs
        with precision_lib.exact():
            return outputs | self._segment(features, attention, inside)

    def _cast_array(self, x: Array) -> Array:
        """Casts an array to the type of the convolutions."""
        # During initialisation parameters are float32.
        return x if self.is_initializing() else x.astype(precision_lib.dtype(self.precision))

    def _classify(
        self,
        features: Float[Array, "B h w K"],
        train: bool,
        inside: Bool[Array, "B h w"] | None,
    ) -> dict[str, Array]:
        init = nn.initializers.xavier_uniform()
        classify = nn.Dense(self.num_classes, use_bias=False, kernel_init=init, name="cls_head")
        dropout = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)
        dropped = dropout(features)
        if inside is None:
            pooled = dropped.mean((1, 2))
        else:
            weight = inside[..., None].astype(dropped.dtype)
            pooled = (dropped * weight).sum((1, 2)) / jnp.maximum(weight.sum((1, 2)), 1)
        return _float32({"cls_logits": classify(pooled), "cam": classify(features)})

    def _segment(
        self,
        features: Float[Array, "B h w K"],
        attention: Sequence[Attention],
        inside: Bool[Array, "B h w"] | None,
    ) -> dict[str, Any]:
        switches = dict(self.affinity)
        for name in _NETWORK_SWITCHES:
            switches.pop(name, None)
        tasks = {"seg": self.num_classes + 1} | ({"sal": 1} if self.tasks["sal"] else {})
        wanted = self.affinity["cross_task"] and self.affinity.get("backbone_attention", True)
        if not (switches["pairwise"] and wanted):
            attention = ()
        count = len(tasks) * switches.get("heads", 1) + len(attention)
        outputs: dict[str, Any] = {}
        pairwise: dict[str, list[Pairwise]] = {}
        unary: list[Array] = []
        for task, channels in tasks.items():
            branch = TaskBranch(self.channels, self.dilations[:2], name=f"{task}_branch")
            with precision_lib.convolutions(self.precision):
                embedded = branch(features, inside)
            affinity = TaskAffinity(**switches, sources=count, name=f"{task}_affinity")
            enhanced, pairwise[task], unary_map = affinity(embedded.astype(jnp.float32), inside)
            unary += [] if unary_map is None else [unary_map]
            rate = self.dilations[2] if self.head_conv else None
            head = TaskHead(channels, rate, name=f"{task}_head")
            with precision_lib.convolutions(self.precision):
                outputs[task] = _float32({"initial": head(self._cast_array(enhanced), inside)})
        affinity = self._fuse_pairwise(pairwise, attention, inside)
        if affinity is not None:
            outputs["affinity"] = affinity
        if unary:
            outputs["unary"] = self._fuse_unary(unary, features.shape[:3])
        return outputs | self._refine(outputs)

    def _fuse_pairwise(
        self,
        pairwise: Mapping[str, list[Pairwise]],
        attention: Sequence[Attention],
        inside: Bool[Array, "B h w"] | None,
    ) -> Pairwise | None:
        """Fuses the affinities of all tasks, and the attention of the backbone.

        With one source, or without cross_task, the segmentation task's own affinity serves.
        """
        own = pairwise["seg"]
        if not own:
            return None
        sources = [source for maps in pairwise.values() for source in maps]
        if attention:
            batch, positions, _ = attention[0].query.shape
            block_mib = self.affinity.get("block_mib", TaskAffinity.block_mib)
            count = len(sources) + len(attention)
            block = rows_per_block(batch, positions, count, block_mib)
            keys = None if inside is None else inside.reshape(batch, 1, positions)
            for head in attention:
                exact = Attention(*(x.astype(jnp.float32) for x in head))
                sources.append(Pairwise.from_attention(exact, keys, block))
        if self.affinity["cross_task"] and len(sources) > 1:
            weights = CrossTaskFusion(len(sources), name="cross_pairwise")()
            affinity = combine(sources, weights)
        else:
            affinity = combine(own, None)
        return affinity.normalize_rows() if self.affinity["normalize_rows"] else affinity

    def _fuse_unary(
        self, unary: Sequence[Float[Array, "B N"]], grid: tuple[int, int, int]
    ) -> Float[Array, "B N"]:
        """Fuses the unary maps of the tasks, laid out as [B, h, w]."""
        if not (self.affinity["cross_task"] and len(unary) > 1):
            return unary[0]
        maps = [attention.reshape(grid) for attention in unary]
        weights = CrossTaskFusion(len(maps), name="cross_unary")()
        return fuse(maps, weights).reshape(unary[0].shape)

    def _refine(self, outputs: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """Returns the predictions with their refined twins."""
        tasks = [task for task in REFINED_TASKS[self.affinity["refine"]] if task in outputs]
        if not tasks:
            return {}
        unary = outputs.get("unary")
        # gamma starts at 0, so that the refined prediction starts without its unary term.
        zeros = nn.initializers.zeros
        gammas = [
            self.param(f"{task}_gamma", zeros, ()) if unary is not None else 0.0 for task in tasks
        ]
        initial = [outputs[task]["initial"] for task in tasks]
        refined = refine(initial, outputs.get("affinity"), unary, gammas)
        return {
            task: outputs[task] | {"refined": prediction}
            for task, prediction in zip(tasks, refined, strict=True)
        }


def _float32(outputs: dict[str, Array]) -> dict[str, Array]:
    return {name: value.astype(jnp.float32) for name, value in outputs.items()}


def final_predictions(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the logits of each dense task that the network has, "seg" and "sal".

    They are the refined ones of {"initial", "refined"} if there are any, else the initial ones.
    """
    found = {task: outputs[task] for task in ("seg", "sal") if task in outputs}
    return {task: kinds.get("refined", kinds["initial"]) for task, kinds in found.items()}


def build(*, num_classes: int, model: Any, affinity: Any, tasks: Any) -> AuxSegNet:
    """Builds the network of a config's sections, which `config.validation` has checked."""
    model = dict(model)
    model["backbone"] = dict(model["backbone"])
    model["dilations"] = tuple(model["dilations"])
    affinity, tasks = dict(affinity), dict(tasks)
    return AuxSegNet(num_classes=num_classes, affinity=affinity, tasks=tasks, **model)


def normalize(
    network: Any, image: UInt8[Array, "B H W 3"], inside: Bool[Array, "B H W"]
) -> Float[Array, "B H W 3"]:
    """Turns RGB in 0..255 into what the backbone of `network` takes; 0 outside of the photo.

    Photos travel to the device as bytes, a quarter of their normalised size.
    """
    spec = backbones.normalisation(network.backbone)
    mean, std = (jnp.asarray(spec[name], jnp.float32) for name in ("mean", "std"))
    return jnp.where(inside[..., None], (image.astype(jnp.float32) - mean) / std, 0)


def grid(model: Any, crop: int) -> Grid:
    """Returns the sizes of whole photos that suit a network trained on crops of `crop` pixels."""
    stride = backbones.output_stride(dict(model["backbone"]))
    return Grid(stride, crop % stride)
