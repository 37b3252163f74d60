"""A pass over whole photos, on one device and on several; the views of test-time augmentation."""

import functools

import jax
import numpy as np
import pytest

from auxseg_jax.data.loader import PhotoBatch
from auxseg_jax.devices import compilation
from auxseg_jax.devices import mesh as mesh_lib
from auxseg_jax.inference import crf, passes

SIZES = [(12, 10), (9, 14), (12, 14), (5, 6), (12, 3), (7, 7)]
CRF = crf.CrfOptions("lattice", 2, 3.0, 3.0, 6.0, 20.0, 5.0)


class Photos:
    """Six photos in a batch of eight of 12 x 14 pixels."""

    num_photos = len(SIZES)

    def __init__(self, rng):
        rows = [*SIZES, SIZES[-1], SIZES[-1]]
        inside = np.zeros((8, 12, 14), bool)
        for row, (height, width) in enumerate(rows):
            inside[row, :height, :width] = True
        image = rng.uniform(0, 255, (8, 12, 14, 3)).astype(np.float32)
        self.arrays = {
            "image": image,
            "inside": inside,
            "saliency": rng.random((8, 12, 14)).astype(np.float32),
        }

    def blank_batches(self):
        return [self.arrays]

    def __iter__(self):
        yield PhotoBatch(self.arrays, [f"photo_{k}" for k in range(len(SIZES))], SIZES)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.slow
def test_every_device_does_its_own_photos(rng, devices):
    reader, seen, written = Photos(rng), [], {}

    def function(params, batch):
        seen.append(batch["image"].shape[0])
        sharpened = jax.vmap(functools.partial(crf.saliency, options=CRF))(
            batch["image"], batch["saliency"], batch["inside"]
        )
        return {"saliency": params["scale"] * sharpened, "mean": batch["saliency"].mean((1, 2))}

    mesh = mesh_lib.make_mesh(data=devices)
    passes.run(
        "test",
        passes.PhotoFunction(function, mesh),
        {"scale": np.float32(2)},
        reader,
        written.__setitem__,
        mesh,
    )
    assert set(seen) == {8 // devices} and set(written) == {f"photo_{k}" for k in range(len(SIZES))}
    alone = compilation.jit(functools.partial(crf.saliency, options=CRF))
    for row, size in enumerate(SIZES):
        found = written[f"photo_{row}"]
        assert found["saliency"].shape == size
        wanted = 2 * alone(*(reader.arrays[k][row] for k in ("image", "saliency", "inside")))
        np.testing.assert_allclose(found["saliency"], wanted[: size[0], : size[1]], atol=1e-5)
        np.testing.assert_allclose(found["mean"], reader.arrays["saliency"][row].mean(), rtol=1e-6)


def test_what_a_writer_raises_ends_the_pass(rng):
    def write(key, row):
        raise OSError(f"no room for {key}")

    mesh = mesh_lib.make_mesh(data=1)
    function = passes.PhotoFunction(lambda params, batch: {"x": batch["saliency"] * params}, mesh)
    with pytest.raises(OSError, match="no room for photo_"):
        passes.run("test", function, np.float32(1), Photos(rng), write, mesh)


def test_every_size_is_compiled_once_and_ahead(rng):
    traced = []

    def function(params, batch):
        traced.append(batch["saliency"].shape)
        return {"x": batch["saliency"] * params}

    mesh = mesh_lib.make_mesh(data=1)
    compiled = passes.PhotoFunction(function, mesh)
    batches = [{"saliency": rng.random((1, side, 3)).astype(np.float32)} for side in (2, 4, 2)]
    assert compiled.new_shapes(batches) == 2
    compiled.compile_for(np.float32(2), batches)
    assert compiled.new_shapes(batches) == 0
    for batch in batches:
        np.testing.assert_array_equal(compiled(np.float32(2), batch)["x"], 2 * batch["saliency"])
    assert sorted(traced) == [(1, 2, 3), (1, 4, 3)]
