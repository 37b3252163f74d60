"""What the phases of a run share: config, data, network, devices, and the compiled programs."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from auxseg_jax.data import dataset as dataset_lib
from auxseg_jax.data.loader import PhotoReader
from auxseg_jax.devices import hosts
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.files import file_sets, storage
from auxseg_jax.files.terminal import say
from auxseg_jax.inference import passes
from auxseg_jax.runs import build, readers
from auxseg_jax.runs.journal import Journal
from auxseg_jax.runs.workdir import CLASSIFIER, Workdir
from auxseg_jax.training import checkpoint, optimizer
from auxseg_jax.training.writer import Writer

_FEW_STEPS = 50


class Context:
    """What every phase needs. Each program is traced and compiled once for all phases.

    Attributes:
      config: the config of the run.
      workdir: where it works.
      mesh: all devices of the run.
      local: this host's devices.
      data: the prepared data set.
      network: the network.
      journal: where it is written down that masks were read.
      writer: where metrics go.
      observe_steps: is told (phase, start, whole, left) of the first steps of training, see
        `forecast.Forecast.observe`.

    Raises:
      UserError: the mesh, the batches or the data set cannot be used.
    """

    writer: Writer
    observe_steps: Callable[..., None]

    def __init__(self, config: ml_collections.ConfigDict, workdir: Workdir):
        self.config, self.workdir = config, workdir
        self.mesh: Mesh = mesh_lib.make_mesh(**config.mesh)
        self.local = mesh_lib.local_mesh(self.mesh)
        build.check_batch_sizes(config, self.mesh)
        self.journal = Journal(workdir.oracle, hosts.is_first())
        data = hosts.first_alone(lambda: dataset_lib.prepare(**config.data))
        self.data = dataclasses.replace(data, journal=self.journal)
        train = self.data.train_split
        if config.supervision == "masks":
            absent = len(self.data.photos(train)) - self.data.num_masks(train)
            if absent:
                raise UserError(
                    f"supervision=masks: {absent} photos of split {train!r} have no pixel labels"
                )
        self.network = build.network(config, self.data.num_classes)

    def try_out(self) -> None:
        """Does now what would otherwise fail only when a phase begins.

        Raises:
          UserError: a pattern matches no parameter, weights do not fit, labels cannot be stored, or
            the disk is too small.
        """
        file_sets.check_format(self.workdir.path, self.config.label_format)
        for section in ("classifier", "stages"):
            if self.steps(section) < _FEW_STEPS:
                say(
                    f"note: {section} has {self.steps(section)} steps, too few to learn much; "
                    f"--config.{section}.min_steps={4 * _FEW_STEPS} gives it more"
                )
        shapes = build.abstract_params(self.config, self.network)
        frozen = self.config.optimizer.frozen
        options = build.optimizer_options(self.config, lr=0.0, frozen=frozen)
        transform = optimizer.make_optimizer(shapes, 1, options)
        build.load_pretrained(self.config, shapes)
        self._check_space(shapes, jax.eval_shape(transform.init, shapes))

    def _check_space(self, params: dict, opt_state: Any) -> None:
        """Raises UserError if the parameters and checkpoints of the stages will not fit."""
        log, count = self.config.log, self.config.stages.count
        weights, state = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
            for tree in (params, (params, opt_state))
        )
        kept = min(log.keep + 1, math.ceil(self.steps("stages") / log.checkpoint_every))
        storage.check_space(
            self.workdir.path,
            count * (weights + kept * state),
            f"{count} stages, each with its parameters and {kept} checkpoints (log.keep)",
        )

    @functools.cached_property
    def initialise(self) -> Callable[[jax.Array], dict]:
        """Key -> new parameters."""
        return build.initialiser(self.config, self.network, self.mesh)

    @functools.cached_property
    def stage_step(self) -> tuple[optax.GradientTransformation, Callable]:
        """Optimiser and train step of the stages."""
        shapes = build.abstract_params(self.config, self.network)
        steps = self.steps("stages")
        return build.train_step(self.config, self.network, shapes, self.mesh, steps)

    @functools.cached_property
    def initial_labels(self) -> passes.PhotoFunction:
        """Initial labels of a batch of photos."""
        return passes.PhotoFunction(build.initial_labels(self.config, self.network), self.local)

    @functools.cached_property
    def classifier_cam(self) -> passes.PhotoFunction:
        """The classifier's share of the CAMs of label updates."""
        return passes.PhotoFunction(build.classifier_cam(self.config, self.network), self.local)

    @functools.cached_property
    def updated_labels(self) -> passes.PhotoFunction:
        """Updated labels of a batch of photos."""
        return passes.PhotoFunction(build.updated_labels(self.config, self.network), self.local)

    @functools.cached_property
    def explain(self) -> passes.PhotoFunction:
        """What the steps of the method make of a batch of photos."""
        return passes.PhotoFunction(build.explain(self.config, self.network), self.local)

    @functools.cached_property
    def segmentation(self) -> passes.PhotoFunction:
        """Prediction for a batch of photos, with saliency, certainty and initial labels."""
        show = ("saliency", "certainty", "initial")
        function = build.segmentation(self.config, self.network, show=show)
        return passes.PhotoFunction(function, self.local)

    @functools.cached_property
    def postprocessed(self) -> passes.PhotoFunction:
        """Post-processed prediction for a batch of photos."""
        return passes.PhotoFunction(
            build.segmentation(self.config, self.network, post=True), self.local
        )

    def steps(self, section: str) -> int:
        """Returns the updates of a phase of training."""
        fields, photos = self.config[section], self.data.photos(self.data.train_split)
        return max(math.ceil(fields.epochs * len(photos) / fields.batch_size), fields.min_steps, 1)

    def first_params(self) -> dict:
        """Returns the parameters before any training, with the weights that the config names."""
        params = self.initialise(jax.random.key(self.config.seed))
        return build.load_pretrained(self.config, params)

    def classifier_params(self) -> dict:
        """Returns the parameters that the classifier phase left."""
        shapes = build.abstract_params(self.config, self.network)
        path = self.workdir.params(CLASSIFIER)
        return checkpoint.load_params(path, build.classifier_part(shapes), self.mesh)

    def stage_params(self, stage: str) -> dict:
        """Returns the parameters that a stage left."""
        shapes = build.abstract_params(self.config, self.network)
        return checkpoint.load_params(self.workdir.params(stage), shapes, self.mesh)

    def reader(
        self,
        split: str,
        cams: Callable[[str], np.ndarray] | None = None,
        only: Collection[int] | None = None,
    ) -> PhotoReader:
        """Returns a reader of this host's share of the whole photos of a split.

        Args:
          split: name of the split.
          cams: see `PhotoReader`.
          only: indices of the photos; None: all.
        """
        photos, sizes = self.data.photos(split), self.data.sizes(split)
        share, devices = hosts.share(), self.local.size
        return readers.photo_reader(self.config, photos, sizes, devices, share, cams, only)
