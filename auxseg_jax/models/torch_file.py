"""Reads tensors from a PyTorch checkpoint of the old (non-zip) format without torch and without running its pickles.

The file is four pickles (magic number, protocol, system info, the object) and one of storage keys, then the raw storages.
The unpickler here knows four names - OrderedDict, the tensor rebuilder, storage types - and refuses every other global.
"""

import collections
import io
import pickle
import struct
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4", "ByteStorage": "u1"}


class _Storage:
    """A storage named in the pickle; its numbers follow the pickles."""

    def __init__(self, dtype: str, count: int):
        self.dtype, self.count, self.values = np.dtype(dtype), count, None


class _Tensor:
    """View of a storage, resolved once the storages are read."""

    def __init__(self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        del requires_grad, hooks, metadata
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        values = self.storage.values
        extent = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) + 1
        if 0 in self.size:
            return np.zeros(self.size, values.dtype)
        if min((self.offset, *self.stride)) < 0 or min(self.size, default=0) < 0 or extent > values.size:
            raise ValueError(f"a tensor of size {self.size} reaches outside its storage of {values.size} numbers")
        strides = [s * values.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides, writeable=False).copy()


class _Unpickler(pickle.Unpickler):
    """Knows what a state dict is made of, and nothing else."""

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"refused: the file asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage" and pid[5] is None):
            raise pickle.UnpicklingError(f"refused: unknown persistent object {str(pid)[:80]}")
        _, dtype, key, _, count, _ = pid
        return self.storages.setdefault(key, _Storage(dtype, count))


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Bytes of a legacy torch file holding a state dict -> {name: array}.

    Raises:
      ValueError: another format, truncated, or it asks for a global that tensors do not need.
    """
    file = io.BytesIO(data)
    try:
        if _Unpickler(file).load() != _MAGIC:
            raise ValueError("not a PyTorch file of the legacy format")
        for _ in range(2):  # protocol version, system info
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        state = unpickler.load()
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            size = storage.count * storage.dtype.itemsize
            raw = file.read(size)
            if count != storage.count or len(raw) != size:
                raise ValueError(f"storage {key} is truncated: {len(raw)} of {size} bytes")
            storage.values = np.frombuffer(raw, storage.dtype)
        return {name: tensor.array() for name, tensor in state.items() if isinstance(tensor, _Tensor)}
    except (pickle.UnpicklingError, EOFError, struct.error, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"not a readable PyTorch state dict: {error}") from error
