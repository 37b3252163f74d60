"""What the values of a segmentation map mean, and the colours they are shown in."""

import numpy as np

BACKGROUND = 0
"""Label of a pixel that belongs to no class. The classes are 1, 2, ..."""

IGNORE = 255
"""Label of a pixel without a label: no loss and no score counts it.

In pseudo labels it marks doubt (`pseudo.fuse`), in masks a void region, in crops padding.
"""


def palette(count: int = 256) -> np.ndarray:
    """The PASCAL VOC colour map, uint8 [count, 3].

    The bits of an index are spread over red, green and blue, the highest bits first.
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours
