"""Reads MXNet's `.params` files, lists of named arrays, without mxnet.

ResNet38's ImageNet weights come as one.
"""

import math
import struct

import numpy as np

from auxseg_jax.errors import UserError

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


def is_mxnet(data: bytes) -> bool:
    """Returns whether the bytes begin as a `.params` file does."""
    return data[:8] == struct.pack("<Q", _LIST)


def read(data: bytes) -> dict[str, np.ndarray]:
    """Reads {name: array} from the bytes of a `.params` file.

    Names stay as they are ("arg:conv1a_weight", "aux:bn7_moving_var").

    Raises:
      UserError: another format, sparse arrays, truncated.
    """
    position = 0

    def take(form: str) -> tuple:
        nonlocal position
        position += struct.calcsize(form)
        return struct.unpack_from(form, data, position - struct.calcsize(form))

    def array() -> np.ndarray:
        nonlocal position
        (first,) = take("<I")
        if first in (_V2, _V3) and take("<i") not in ((0,), (-1,)):
            raise UserError("it holds a sparse array")
        # The oldest form has no magic number: the number of axes stands in its place.
        axes, kind = (take("<I")[0], "q") if first in (_V1, _V2, _V3) else (first, "I")
        shape = take(f"<{_bounded(axes, 32)}{kind}")
        if not shape and first != _V3:  # It means "none"; the newest form has scalars instead.
            return np.zeros(0, np.float32)
        take("<2i")  # Skips the device that held the array.
        (kind,) = take("<i")
        if kind not in _DTYPES or min(shape, default=0) < 0:
            raise UserError(f"an array of shape {shape} has the unknown type {kind}")
        dtype, count = np.dtype(_DTYPES[kind]), math.prod(shape)
        if position + count * dtype.itemsize > len(data):
            raise UserError(f"it is truncated in an array of shape {shape}")
        position += count * dtype.itemsize
        return np.frombuffer(data, dtype, count, position - count * dtype.itemsize).reshape(shape)

    try:
        if take("<2Q")[0] != _LIST:
            raise UserError("not an MXNet params file")
        arrays = [array() for _ in range(_bounded(take("<Q")[0], len(data)))]
        count = _bounded(take("<Q")[0], len(data))
        lengths = (_bounded(take("<Q")[0], 4096) for _ in range(count))
        names = [bytes(take(f"<{length}s")[0]).decode() for length in lengths]
    except (struct.error, UnicodeDecodeError) as error:
        raise UserError(f"not a readable MXNet params file: {error}") from error
    if len(names) != len(arrays):
        raise UserError(f"it holds {len(arrays)} arrays but {len(names)} names")
    return dict(zip(names, arrays, strict=True))


def _bounded(count: int, limit: int) -> int:
    """Refuses counts that the file cannot hold."""
    if count > limit:
        raise UserError(f"a count of {count} cannot be right")
    return count
