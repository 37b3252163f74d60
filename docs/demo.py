"""Draws docs/demo.png from the workdir of the demo: `python docs/demo.py workdirs/demo`.

Columns: photo, CAM (of the largest class), pseudo label that the last stage left, predicted mask.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

import auxseg_jax
from auxseg_jax.data import dataset, features, pseudo_labels
from auxseg_jax.files import file_sets
from auxseg_jax.pixel_labels import palette
from auxseg_jax.runs.workdir import CAM, Workdir

PHOTOS, SIDE, GAP = (3, 12, 20, 35), 160, 8


def heat(score):
    """Grey 0..255 as a heat map, uint8 [H, W, 3]."""
    x = score[..., None].astype(np.float32) / 255
    return (255 * np.clip(np.concatenate([3 * x, 3 * x - 1, 3 * x - 2], -1), 0, 1)).astype(np.uint8)


def resize(picture):
    """Square, with hard edges."""
    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)


folder = Workdir(sys.argv[1])
predictor = auxseg_jax.load(folder.path)
data = dataset.prepare(**predictor.config.data)
examples = [data.photos("train")[index] for index in PHOTOS]
photos = [features.decode_image(example["image"]) for example in examples]
cams = file_sets.reader(folder.labels(CAM))
labels = file_sets.reader(folder.labels(f"{predictor.stage}/pseudo"))
colours = palette().copy()
colours[255] = 255
columns, rows = 4, len(PHOTOS)
width, height = columns * SIDE + (columns - 1) * GAP, rows * SIDE + (rows - 1) * GAP
canvas = Image.new("RGB", (width, height), "white")
for row, (example, photo, prediction) in enumerate(
    zip(examples, photos, predictor.predict(photos, show=()), strict=True)
):
    name = example["id"].decode()
    (score,) = pseudo_labels.read(cams, name, ("cam_score",)).values()
    (pseudo,) = pseudo_labels.read(labels, name, ("segmentation",)).values()
    pictures = (photo, heat(score), colours[pseudo], colours[prediction.labels])
    for column, picture in enumerate(pictures):
        canvas.paste(resize(picture), (column * (SIDE + GAP), row * (SIDE + GAP)))
canvas.quantize(128).save(pathlib.Path(__file__).with_suffix(".png"), optimize=True)
