"""What a prepared data set holds, the same for every builder, and how it is read.

A data set is prepared as two TFDS configs, so that the training reader has no way to a mask:

`photos` (training and prediction)
  id          str
  image       JPEG or PNG bytes, uint8 RGB [H, W, 3] when decoded
  labels      uint8 [C], multi-hot over the foreground classes: labels[k - 1] is class k of masks
  size        int32 [2], (H, W)
  saliency    PNG bytes, uint8 [H, W] when decoded, 0..255; and every other plane that the data set
              brings (`planes.GIVEN`); absent where it does not

`masks` (evaluation, and the run that is marked fully supervised)
  id            str
  segmentation  PNG bytes, uint8 [H, W] when decoded: 0 background, 1..C classes, 255 ignore
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds

from auxseg_jax.errors import UserError
from auxseg_jax.files import images

PHOTOS, MASKS = "photos", "masks"
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def builder_configs() -> list[tfds.core.BuilderConfig]:
    """Returns the two TFDS configs of every builder."""
    return [
        tfds.core.BuilderConfig(name=PHOTOS, description="photos, image-level labels, saliency"),
        tfds.core.BuilderConfig(name=MASKS, description="pixel labels, to evaluate"),
    ]


def dataset_info(
    builder: tfds.core.DatasetBuilder, classes: Sequence[str], encoding: str, planes: Sequence[str]
) -> tfds.core.DatasetInfo:
    """Returns the DatasetInfo of `builder`'s config.

    Args:
      builder: its config decides between photos and masks.
      classes: names, background first.
      encoding: encoding of the photos, "jpeg" or "png".
      planes: names of the planes that the data set brings.
    """
    png = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    if builder.builder_config.name == MASKS:
        features = {"id": tfds.features.Text(), "segmentation": png}
    else:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format=encoding),
            "labels": tfds.features.Tensor(shape=(len(classes) - 1,), dtype=np.uint8),
            "size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
            **dict.fromkeys(planes, png),
        }
    return tfds.core.DatasetInfo(
        builder=builder,
        description="Weakly supervised segmentation.",
        features=tfds.features.FeaturesDict(features),
    )


def decode_image(data: bytes) -> np.ndarray:
    """Decodes JPEG or PNG to uint8 RGB [H, W, 3], turned as its EXIF data say.

    Raises:
      UserError: it cannot be decoded.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise UserError(f"not a readable image ({error.err})") from error
    if image is None:
        raise UserError("not a readable image")
    return image


def size_within(size: tuple[int, int], megapixels: float) -> tuple[int, int]:
    """Returns the largest size of the form of `size` that has no more than so many pixels."""
    height, width = size
    factor = min(math.sqrt(1e6 * megapixels / (height * width)), 1.0)
    if factor == 1:
        return height, width
    return max(int(height * factor), 1), max(int(width * factor), 1)


def scale_image(data: bytes, size: tuple[int, int]) -> bytes:
    """Scales an image file down to (H, W), as a JPEG of high quality, upright."""
    image = cv2.resize(decode_image(data), size[::-1], interpolation=cv2.INTER_AREA)
    return images.encode_jpeg(image, quality=95)


def check_image(data: bytes) -> tuple[int, int]:
    """Returns (H, W) of an image that decodes to its end.

    Raises:
      UserError: it does not (OpenCV alone fills a truncated image with grey), or its colours are
        not 8-bit RGB or grey.
    """
    with images.opened(data, "image") as image:
        image.load()
        mode = image.mode
    # Byte 24 of a PNG holds the bits of a channel; Pillow calls colours of 16 bits RGB, too.
    deep = data.startswith(b"\x89PNG") and data[24] > 8
    if mode not in _MODES or deep:
        bits = ", 16 bits a channel" if deep else ""
        raise UserError(f"its colours are {mode}{bits}; save it as 8-bit RGB or grey")
    return decode_image(data).shape[:2]
