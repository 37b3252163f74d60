"""From a config to what it describes: the network, its parameters, the programs that a run is made of, readers of whole photos."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from auxseg_jax import predict, sharding
from auxseg_jax.data import loader
from auxseg_jax.grid import Grid
from auxseg_jax.models import auxsegnet, pretrained
from auxseg_jax.pseudo import update
from auxseg_jax.training import losses, optimizer, step


def check_batch_sizes(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises ValueError unless the batches of every phase can be shared by the devices of `mesh`."""
    for name in ("classifier", "stages"):
        try:
            sharding.check_batch_size(config[name].batch_size, mesh, config[name].accumulate)
        except ValueError as error:
            raise ValueError(f"{name}.batch_size: {error}") from error


def build_network(config: ml_collections.ConfigDict, num_classes: int) -> auxsegnet.AuxSegNet:
    """The network that a config describes."""
    return auxsegnet.build(num_classes=num_classes, model=config.model, affinity=config.affinity, tasks=config.tasks)


def _crf_options(config: ml_collections.ConfigDict, use: str) -> dict[str, Any]:
    """Options of `crf.saliency` or `crf.segmentation`."""
    return {"filter": config.crf.filter, **config.crf[use]}


def grid_of(config: ml_collections.ConfigDict) -> Grid:
    """The sizes that whole photos are padded to."""
    return auxsegnet.grid(config.model, config.augment.crop)


def initial_labels_of(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """`update.initial_labels` with a config's options."""
    return functools.partial(update.initial_labels, network=network, grid=grid_of(config), cam=dict(config.cam), fusion=dict(config.fuse))


def updated_labels_of(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """`update.updated_labels` with a config's options."""
    options = dict(walk=dict(config.walk), fusion=dict(config.fuse), crf=_crf_options(config, "saliency"), **config.label_update)
    return functools.partial(update.updated_labels, network=network, grid=grid_of(config), **options)


def segmentation_of(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet, post: bool = False, **options) -> Callable:
    """`predict.labels_of` with a config's options: with `post` the views and the CRF of post-processing."""
    options |= dict(config.post, crf=_crf_options(config, "segmentation")) if post else dict(config.predict)
    return functools.partial(predict.labels_of, network=network, grid=grid_of(config), **options)


def train_step_of(
    config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet, params: dict, mesh: Mesh, steps: int, dense: bool = True
) -> tuple[optax.GradientTransformation, Callable]:
    """The optimiser and the train step of a stage of so many steps, or, if not `dense`, of the classifier phase. `params` may be shapes."""
    section = config.stages if dense else config.classifier
    frozen = [*config.optimizer.frozen]
    if not dense:
        frozen += [f"{name}(/.*)?" for name in params if name not in classifier_part(params)]
    transform = optimizer.make_optimizer(params, steps, **dict(config.optimizer) | {"lr": section.lr, "frozen": frozen})
    loss = losses.stage_losses if dense else losses.classifier_loss
    switches = {"dense": dense, "frozen": frozen, "accumulate": section.accumulate}
    return transform, step.make_train_step(network, transform, loss, dict(config.loss), mesh, **switches)


def init_of(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet, mesh: Mesh) -> Callable[[jax.Array], dict]:
    """`step.make_init` at a config's crop."""
    return step.make_init(network, (config.augment.crop, config.augment.crop), mesh)


def abstract_params(network: auxsegnet.AuxSegNet, config: ml_collections.ConfigDict) -> dict:
    """Shapes of all parameters."""
    image = jax.ShapeDtypeStruct((1, config.augment.crop, config.augment.crop, 3), np.float32)
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x)["params"], image)


def classifier_part(params: dict) -> dict:
    """What the classifier phase trains and leaves: nothing of the dense branches, so that networks that differ there can share it."""
    return {name: part for name, part in params.items() if name in ("backbone", "cls_head")}


def load_pretrained(config: ml_collections.ConfigDict, params: dict) -> dict:
    """`params` with the weights that the config starts from in place: `pretrained.path`, else ImageNet's, else none."""
    path = config.pretrained.path
    return pretrained.load(params, config.model.backbone.name, path) if path or config.pretrained.imagenet else params


def make_reader(
    config: ml_collections.ConfigDict, source: Any, sizes: list[tuple[int, int]], devices: int, share: tuple[int, int] = (0, 1)
) -> loader.PhotoReader:
    """Whole photos of a source, batched as `config.eval` says, for so many devices; of several hosts one's share."""
    options = dict(config.eval) | dict(config.loader) | auxsegnet.normalisation(config.model)
    return loader.PhotoReader(source, sizes, grid=grid_of(config), devices=devices, share=share, **options)
