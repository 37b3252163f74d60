"""Image sizes that suit a network trained on crops of one size."""

from typing import NamedTuple


class Grid(NamedTuple):
    """The image sizes at which a network samples as it did in training.

    These are the sizes that leave the same remainder as the crop, divided by the stride. Where the
    cells of the output lie depends on how each strided convolution pads: at stride 16, cell i of
    224 pixels is centred at pixel 16 i + 15, but of 213 pixels at 16 i + 4. The network has learned
    the first. At another remainder its maps are off by up to a cell.

    Attributes:
      stride: pixels a cell of the output.
      remainder: the training crop modulo the stride, pixels.
    """

    stride: int
    remainder: int

    def cells(self, size: int) -> int:
        """Returns the cells of the output of `size` pixels, which are a size of the grid."""
        return (size - self.remainder) // self.stride + bool(self.remainder)

    def pixels(self, cells: int) -> int:
        """Returns the size of the grid with so many cells."""
        return (cells - bool(self.remainder)) * self.stride + self.remainder

    def at_least(self, size: int) -> int:
        """Returns the smallest size of the grid that is not below `size`."""
        return size + (self.remainder - size) % self.stride

    def nearest(self, size: float) -> int:
        """Returns the size of the grid, above 0, that is closest to `size`."""
        cells = round((size - self.remainder) / self.stride)
        return max(cells, 0 if self.remainder else 1) * self.stride + self.remainder
