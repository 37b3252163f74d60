"""Draws docs/affinity.png from two workdirs of the demo: `python docs/affinity.py DOT COSINE`.

DOT was made by the dot product of the papers, COSINE with the defaults; docs/affinity.md has the
commands. Rows: photos. Columns: the photo, with a cross at the cell of its largest CAM; what the
fused affinity looks at from there and what segmentation's own does, by the dot product; the same
by the cosine. Brightness is the square root of an entry, as in report.html.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

from auxseg_jax.data import dataset, features
from auxseg_jax.runs import explained
from auxseg_jax.runs.workdir import Workdir

PHOTOS, SIDE, GAP = 5, 120, 6
SHOWN = (0, 1)  # fused, segmentation's own


def resize(picture):
    """Square, with hard edges."""
    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def point_of(maps):
    """Row and column of the largest CAM on the grid of the affinity."""
    score = maps["cam_score"]
    peak = np.array(np.unravel_index(score.argmax(), score.shape))
    return np.minimum((peak / score.shape * maps["extent"]).astype(int), maps["grid"] - 1)


folders = [Workdir(path) for path in sys.argv[1:3]]
kept = [explained.read(w.folder(f"{w.trained_stages()[-1]}/explain")) for w in folders]
data = dataset.prepare(**folders[0].read_config().data)
photos = {example["id"].decode(): example["image"] for example in data.photos("train")}
names = sorted(kept[0].keys() & kept[1].keys())[:PHOTOS]
columns = 1 + len(SHOWN) * len(folders)
size = columns * (SIDE + GAP) - GAP, len(names) * (SIDE + GAP) - GAP
canvas = Image.new("RGB", size, "white")
for row, name in enumerate(names):
    line, column = point_of(kept[1][name])  # One point for both.
    pictures = [resize(features.decode_image(photos[name]))]
    y, x = SIDE * (np.array([line, column]) + 0.5) / kept[1][name]["extent"]
    pen = ImageDraw.Draw(pictures[0])
    for end in ((x - 7, y, x + 7, y), (x, y - 7, x, y + 7)):
        pen.line(end, fill="white", width=3)
    for maps in (stage[name] for stage in kept):
        shape = maps["grid"]
        rows = maps["affinity"][:, line * shape[1] + column].reshape(-1, *shape)
        pictures += [resize(rows[source]) for source in SHOWN]
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (number * (SIDE + GAP), row * (SIDE + GAP)))
canvas.quantize(128).save(pathlib.Path(__file__).with_suffix(".png"), optimize=True)
