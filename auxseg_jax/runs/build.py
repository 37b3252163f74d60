"""Builds from a config what it describes: the network, its programs, its readers."""

import functools
from collections.abc import Callable, Collection, Sequence

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.grid import Grid
from auxseg_jax.inference.crf import CrfOptions
from auxseg_jax.inference.segmentation import Shown, Views, segment
from auxseg_jax.models import auxsegnet, backbones
from auxseg_jax.pseudo import explain as explain_lib
from auxseg_jax.pseudo import labelled, update
from auxseg_jax.pseudo.fuse import fuse
from auxseg_jax.pseudo.random_walk import random_walk
from auxseg_jax.training import losses, optimizer, step
from auxseg_jax.weights import pretrained

_AFFINITY_SHARE = 1 / 8
"""Part of a device's memory that affinities may take, unless `affinity.block_mib` says how much."""

_CLASSIFIER_MODULES = ("backbone", "cls_head")


def check_batch_sizes(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises UserError unless the devices of `mesh` can share the batches of every phase."""
    for name in ("classifier", "stages"):
        try:
            batch_size, parts = config[name].batch_size, config[name].accumulate
            mesh_lib.check_batch_size(batch_size, mesh, parts)
        except UserError as error:
            raise UserError(f"{name}.batch_size: {error}") from error


def network(
    config: ml_collections.ConfigDict, num_classes: int, memory: int | None = None
) -> auxsegnet.AuxSegNet:
    """Returns the network that a config describes.

    Args:
      config: the config of the run.
      num_classes: C.
      memory: bytes that JAX has on a device; None: of this machine's first one.
    """
    affinity = config.affinity.to_dict()
    if not affinity["block_mib"]:
        memory = memory or mesh_lib.memory_of(jax.local_devices()[0])
        del affinity["block_mib"]  # The network has a default of its own, for CPUs.
        if memory is not None:
            affinity["block_mib"] = _AFFINITY_SHARE * memory / 2**20
    sections = {"model": config.model, "affinity": affinity, "tasks": config.tasks}
    return auxsegnet.build(num_classes=num_classes, **sections)


def grid(config: ml_collections.ConfigDict) -> Grid:
    """Returns the sizes that whole photos are padded to."""
    return auxsegnet.grid(config.model, config.augment.crop)


def initialiser(
    config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet, mesh: Mesh
) -> Callable[[jax.Array], dict]:
    """Returns the jitted function from a key to new parameters."""
    return step.make_init(network, (config.augment.crop, config.augment.crop), mesh)


def abstract_params(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> dict:
    """Returns the shapes of all parameters."""
    crop = config.augment.crop
    image = jax.ShapeDtypeStruct((1, crop, crop, 3), np.float32)
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x)["params"], image)


def classifier_part(params: dict) -> dict:
    """Returns what the classifier phase trains and leaves.

    Nothing of the dense branches is in it, so that networks that differ there can share it.
    """
    return {name: part for name, part in params.items() if name in _CLASSIFIER_MODULES}


def load_pretrained(config: ml_collections.ConfigDict, params: dict) -> dict:
    """Returns `params` with the weights that the config starts from in place.

    They are those of `pretrained.path`, else ImageNet's, else none.
    """
    path = config.pretrained.path
    if not path and not config.pretrained.imagenet:
        return params
    return pretrained.load(params, config.model.backbone.name, path)


def optimizer_options(
    config: ml_collections.ConfigDict, lr: float, frozen: Sequence[str]
) -> optimizer.Options:
    """Returns the options of the optimiser, with the layers of the config's backbone."""
    layers = backbones.find(config.model.backbone.name).layers
    fields = dict(config.optimizer) | {"lr": lr, "frozen": frozen, "layers": layers}
    return optimizer.Options(**fields)


def rates(config: ml_collections.ConfigDict, section: str, steps: int) -> optax.Schedule:
    """Returns the learning rate of the backbone in a phase of training."""
    return optimizer.rates(steps, optimizer_options(config, config[section].lr, frozen=()))


def train_step(
    config: ml_collections.ConfigDict,
    network: auxsegnet.AuxSegNet,
    params: dict,
    mesh: Mesh,
    steps: int,
    dense: bool = True,
) -> tuple[optax.GradientTransformation, Callable]:
    """Returns the optimiser and the train step of a phase.

    Args:
      config: the config of the run.
      network: the network.
      params: the parameters, or their shapes.
      mesh: the devices.
      steps: length of the phase.
      dense: a stage; False: the classifier phase.
    """
    section = config.stages if dense else config.classifier
    frozen = [*config.optimizer.frozen]
    if not dense:
        others = (name for name in params if name not in _CLASSIFIER_MODULES)
        frozen += [f"{name}(/.*)?" for name in others]
    options = optimizer_options(config, lr=section.lr, frozen=frozen)
    transform = optimizer.make_optimizer(params, steps, options)
    objective = step.Objective(
        loss=losses.stage_losses if dense else losses.classifier_loss,
        weights=dict(config.loss),
        dense=dense,
        frozen=frozen,
        accumulate=section.accumulate,
    )
    return transform, step.make_train_step(network, transform, objective, mesh)


def initial_labels(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """Returns `update.initial_labels` with a config's options."""
    return functools.partial(
        update.initial_labels,
        network=network,
        grid=grid(config),
        seen=Views(**config.cam),
        fuse=functools.partial(fuse, **config.fuse),
    )


def classifier_cam(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """Returns `update.classifier_cam` with a config's options."""
    fields = config.label_update
    return functools.partial(
        update.classifier_cam,
        network=network,
        grid=grid(config),
        seen=Views(fields.scales, fields.flip),
    )


def _window(config: ml_collections.ConfigDict, section: str) -> int:
    """Returns the size of the windows that a section of the config asks for; 0: none."""
    return config.augment.crop if config[section].windows else 0


def _update_options(config: ml_collections.ConfigDict) -> update.UpdateOptions:
    fields = dict(config.label_update)
    del fields["windows"]
    return update.UpdateOptions(window=_window(config, "label_update"), **fields)


def propagate(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """Returns `update.propagate` with a config's options."""
    return functools.partial(
        update.propagate,
        network=network,
        grid=grid(config),
        options=_update_options(config),
        walk=functools.partial(random_walk, **config.walk),
    )


def updated_labels(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """Returns `update.updated_labels` with a config's options."""
    return functools.partial(
        update.updated_labels,
        propagate=propagate(config, network),
        options=_update_options(config),
        fuse=functools.partial(fuse, **config.fuse),
        crf=crf_options(config, "saliency"),
    )


def explain(config: ml_collections.ConfigDict, network: auxsegnet.AuxSegNet) -> Callable:
    """Returns `explain.explain` with a config's options."""
    return functools.partial(
        explain_lib.explain,
        network=network,
        grid=grid(config),
        window=_window(config, "label_update"),
        predict=segmentation(config, network, show=("certainty",)),
        propagate=propagate(config, network),
    )


def segmentation(
    config: ml_collections.ConfigDict,
    network: auxsegnet.AuxSegNet,
    post: bool = False,
    show: Collection[str] = (),
    point: tuple[int, int] | None = None,
) -> Callable:
    """Returns `segmentation.segment` with a config's options.

    Args:
      config: the config of the run.
      network: the network.
      post: whether to post-process: the views of `config.post`, then the CRF.
      show: see `segment`.
      point: see `segment`.
    """
    section = "post" if post else "predict"
    fields = config[section]
    return functools.partial(
        segment,
        network=network,
        grid=grid(config),
        seen=Views(fields.scales, fields.flip, _window(config, section)),
        crf=crf_options(config, "segmentation") if post else None,
        show=Shown(show, point),
    )


def labelled_segmentation(
    config: ml_collections.ConfigDict,
    network: auxsegnet.AuxSegNet,
    post: bool = False,
    show: Collection[str] = (),
) -> Callable:
    """Returns `labelled.segment` with a config's options; the CRF is always part of it.

    Args:
      config: the config of the run.
      network: the network.
      post: whether it sees the views of `config.post` instead of `config.predict`.
      show: see `segment`.
    """
    predict = functools.partial(
        segmentation(config, network, post, show), crf=crf_options(config, "segmentation")
    )
    weight = config.label_update.classifier_weight
    return functools.partial(
        labelled.segment,
        predict=predict,
        updated_labels=updated_labels(config, network),
        classifier_cam=classifier_cam(config, network) if weight else None,
    )


def crf_options(config: ml_collections.ConfigDict, use: str) -> CrfOptions:
    """Returns the options of `crf.saliency` or `crf.segmentation`."""
    return CrfOptions(filter=config.crf.filter, **config.crf[use])
