"""Lowers the programs of a run for devices of any kind."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from auxseg_jax.data import sources
from auxseg_jax.data.buckets import photos_a_batch
from auxseg_jax.data.planes import LEARNED
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.errors import UserError
from auxseg_jax.inference import passes
from auxseg_jax.runs import build
from auxseg_jax.training import step

PROGRAMS = ("train", "cam", "classifier_cam", "update", "predict", "post")
_PHOTO = (375, 500)  # Most photos of VOC have this height and width.


def make_mesh(config: ml_collections.ConfigDict, devices: list[jax.Device]) -> Mesh:
    """Lays the mesh of a config over devices.

    Raises:
      UserError: it has another number of devices.
    """
    fsdp, model = config.mesh.fsdp, config.mesh.model
    data = len(devices) // (fsdp * model) if config.mesh.data == -1 else config.mesh.data
    if data * fsdp * model != len(devices):
        raise UserError(
            f"mesh: data={data}, fsdp={fsdp}, model={model} is not {len(devices)}, "
            "the devices of the topology"
        )
    return mesh_lib.mesh_of(devices, data, fsdp, model)


def train_batch(count: int, crop: int, classes: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Returns {name: (shape, dtype)} of a training batch of a stage, see `data.loader`."""
    return {
        "image": ((count, crop, crop, 3), np.uint8),
        "window": ((count, 4), np.int32),
        "labels": ((count, classes), np.float32),
        **{plane.name: ((count, crop, crop), plane.dtype) for plane in LEARNED},
    }


class Programs:
    """Lowers each program of a run, by name.

    Args:
      config: the config of the run.
      mesh: its devices.
      platform: lower for "cuda" or "tpu" instead of the platform of the mesh. It cannot be compiled
        then, but read.
      memory: bytes that JAX has on a device of the mesh; None: on this machine's.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        mesh: Mesh,
        platform: str | None = None,
        memory: int | None = None,
    ):
        self._config, self._mesh = config, mesh
        self._platforms = (platform,) if platform else None
        self._classes = sources.num_classes(**config.data)
        self._network = build.network(config, self._classes, memory)
        self._params = build.abstract_params(config, self._network)
        # A pass over photos runs on the devices of one host.
        self._host = mesh_lib.host_mesh(mesh, mesh.devices.flat[0].process_index)

    def train(self) -> jax.stages.Lowered:
        """Lowers the train step of a stage."""
        config, mesh = self._config, self._mesh
        transform, train_step = build.train_step(
            config, self._network, self._params, mesh, steps=1000
        )
        batch = train_batch(config.stages.batch_size, config.augment.crop, self._classes)
        state = step.abstract_state(self._params, transform, mesh)
        traced = train_step.trace(state, _abstract(batch, mesh))
        return traced.lower(lowering_platforms=self._platforms)

    def cam(self) -> jax.stages.Lowered:
        """Lowers the initial labels."""
        function = build.initial_labels(self._config, self._network)
        return self._over_photos(function, build.classifier_part(self._params))

    def classifier_cam(self) -> jax.stages.Lowered:
        """Lowers the classifier's CAMs that label updates use."""
        function = build.classifier_cam(self._config, self._network)
        params = build.classifier_part(self._params)
        return self._over_photos(function, params, keys=("image", "inside", "labels"))

    def update(self) -> jax.stages.Lowered:
        """Lowers the label update."""
        function = build.updated_labels(self._config, self._network)
        return self._over_photos(function, self._params, cams=True)

    def predict(self) -> jax.stages.Lowered:
        """Lowers the prediction."""
        function = build.segmentation(self._config, self._network)
        return self._over_photos(function, self._params, keys=("image", "inside"))

    def post(self) -> jax.stages.Lowered:
        """Lowers the post-processed prediction, with its CRF."""
        function = build.segmentation(self._config, self._network, post=True)
        return self._over_photos(function, self._params, keys=("image", "inside"))

    def _over_photos(
        self,
        function: Callable,
        params: dict,
        keys: Sequence[str] | None = None,
        cams: bool = False,
    ) -> jax.stages.Lowered:
        """Lowers a pass over photos of VOC's usual size.

        Args:
          function: the pass.
          params: its parameters.
          keys: the arrays that it reads; None: all of a data set.
          cams: whether it also reads the classifier's CAMs.
        """
        fields, grid = self._config.eval, build.grid(self._config)
        size = tuple(grid.at_least(n) for n in _PHOTO)
        count = photos_a_batch(size, fields.batch_size, fields.megapixels, self._host.size)
        brought = sources.planes(**self._config.data)
        batch = {
            "image": ((count, *size, 3), np.uint8),
            "inside": ((count, *size), np.bool_),
            "labels": ((count, self._classes), np.float32),
            **{p.name: ((count, *p.batch_shape(*size)), p.dtype) for p in brought},
        }
        batch = {key: batch[key] for key in keys or batch}
        if cams and self._config.label_update.classifier_weight:
            cells = tuple(-(-n // grid.stride) for n in size)
            batch["classifier_cam"] = ((count, *cells, self._classes), np.float32)
        whole = mesh_lib.replicated(self._host)
        params = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), params
        )
        traced = passes.PhotoFunction(function, self._host).trace(
            params, _abstract(batch, self._host)
        )
        return traced.lower(lowering_platforms=self._platforms)


def _abstract(
    arrays: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = mesh_lib.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }
