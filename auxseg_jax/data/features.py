"""What a prepared data set holds, the same for every builder, and how it is read.

A data set is prepared as two TFDS configs, so that the training reader has no way to a mask:

`photos` (training and prediction)
  id          str
  image       JPEG or PNG bytes, uint8 RGB [H, W, 3] when decoded
  labels      uint8 [C], multi-hot over the foreground classes (class k of the masks is labels[k - 1])
  saliency    PNG bytes, uint8 [H, W] when decoded, 0..255; absent from a data set without maps
  size        int32 [2], (H, W)

`masks` (evaluation, and the run that is marked fully supervised)
  id            str
  segmentation  PNG bytes, uint8 [H, W] when decoded: 0 background, 1..C classes, 255 ignore
"""

import io
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

PHOTOS, MASKS = "photos", "masks"


def builder_configs() -> list[tfds.core.BuilderConfig]:
    """The two TFDS configs of every builder."""
    return [
        tfds.core.BuilderConfig(name=PHOTOS, description="photos, image-level labels, saliency"),
        tfds.core.BuilderConfig(name=MASKS, description="pixel labels, to evaluate"),
    ]


def dataset_info(builder: tfds.core.DatasetBuilder, classes: Sequence[str], encoding: str, saliency: bool = True) -> tfds.core.DatasetInfo:
    """DatasetInfo of `builder`'s config; `encoding` is that of the photos ("jpeg" or "png"), `saliency` whether there are maps."""
    plane = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    if builder.builder_config.name == MASKS:
        features = {"id": tfds.features.Text(), "segmentation": plane}
    else:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format=encoding),
            "labels": tfds.features.Tensor(shape=(len(classes) - 1,), dtype=np.uint8),
            "size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
        if saliency:
            features["saliency"] = plane
    return tfds.core.DatasetInfo(builder=builder, description="Weakly supervised segmentation.", features=tfds.features.FeaturesDict(features))


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or RGB [H, W, 3] -> PNG bytes (planes as mode L: TFDS and OpenCV turn palettes into colours)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """JPEG or PNG bytes -> uint8 RGB [H, W, 3], turned as its EXIF data say; ValueError if they cannot be decoded."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ValueError(f"not a readable image ({error.err})") from error
    if image is None:
        raise ValueError("not a readable image")
    return image


def check_image(data: bytes) -> tuple[int, int]:
    """(H, W) of an image that decodes to its end; ValueError otherwise (OpenCV alone fills a truncated one with grey)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            mode = image.mode
    except UnidentifiedImageError as error:  # its own message names an object in memory
        raise ValueError("not a readable image") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image ({error})") from error
    deep = data.startswith(b"\x89PNG") and data[24] > 8  # bits a channel; Pillow names colours of 16 bits RGB
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") or deep:
        raise ValueError(f"its colours are {mode}{', 16 bits a channel' if deep else ''}; save it as 8-bit RGB or grey")
    return decode_image(data).shape[:2]
