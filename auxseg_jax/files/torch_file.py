"""Reads tensors from PyTorch checkpoints without torch and without running their pickles.

Old files are four pickles (magic number, protocol, system info, the object), one of storage keys,
then the raw storages. Newer ones are a zip archive of one pickle and a raw file for each storage.
The unpickler here knows the few names that tensors need and refuses every other global. It looks
through a pickle's instructions before it loads it, so that nothing much larger than the file is
made of it, and nothing takes longer than its length.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from auxseg_jax.errors import UserError
from auxseg_jax.files import pickles

_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP = b"PK\x03\x04"
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_BROKEN_FILE_ERRORS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, struct.error, LookupError),
    *(AttributeError, TypeError, OverflowError, MemoryError),
    RuntimeError,  # zipfile raises it for encrypted entries and versions it does not know.
)


class _Storage:
    """A storage named in the pickle; its numbers come later."""

    def __init__(self, dtype: np.dtype, count: int):
        self.dtype, self.count, self.values = dtype, count, None


class _Tensor:
    """View of a storage, resolved once the storages are read."""

    def __init__(
        self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None
    ):
        del requires_grad, hooks, metadata
        self.storage, self.offset = storage, offset
        self.size, self.stride = tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        values = self.storage.values
        if 0 in self.size:
            return np.zeros(self.size, values.dtype)
        steps = zip(self.size, self.stride, strict=True)
        extent = self.offset + sum((n - 1) * s for n, s in steps) + 1
        is_negative = min((self.offset, *self.stride, *self.size)) < 0
        # A stride of 0 would make much out of little.
        if is_negative or extent > values.size or math.prod(self.size) > values.size:
            raise UserError(
                f"a tensor of size {self.size} reaches outside its storage of {values.size} numbers"
            )
        strides = [s * values.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided
        return view(values[self.offset :], self.size, strides, writeable=False)


def _parameter(tensor, requires_grad=False, hooks=None):
    del requires_grad, hooks
    return tensor


_GLOBALS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


def _read_storage(data: bytes) -> _Storage:
    storage = _read_legacy(data)
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("refused: a storage without numbers")
    return storage


IN_PICKLES: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch.storage", "_load_from_bytes"): _read_storage,
}
"""What tensors within another pickle ask for; `known` of `pickles.read_npy`.

Their storages are old files of their own.
"""


class _Unpickler(pickles.Unpickler):
    """Knows what a state dict is made of, and nothing else."""

    known = _GLOBALS

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        is_storage = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"
        if not is_storage or not isinstance(pid[1], np.dtype) or pid[5:] not in ((), (None,)):
            raise pickle.UnpicklingError("refused: an unknown persistent object")
        _, dtype, key, _, count = pid[:5]
        return self.storages.setdefault(key, _Storage(dtype, count))


def read(data: bytes) -> dict[str, np.ndarray]:
    """Reads {name: array} from the bytes of a torch file.

    The state dict is plain, or under a usual key such as "state_dict".

    Raises:
      UserError: another format, truncated, compressed, or it asks for a global that tensors do not
        need.
    """
    try:
        state = _read_zip(data) if data.startswith(_ZIP) else _read_legacy(data)
        state = _unwrap(state)
        tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, _Tensor)}
        sizes = (math.prod(t.size) * t.storage.dtype.itemsize for t in tensors.values())
        if sum(sizes) > 2 * len(data):
            raise UserError("its tensors are larger than the file")
        if not all(isinstance(name, str) for name in tensors):
            raise UserError("its tensors are not named by text")
        arrays = {name: tensor.array() for name, tensor in tensors.items()}
    except _BROKEN_FILE_ERRORS as error:
        raise UserError(f"not a readable PyTorch state dict: {error}") from error
    if not arrays:
        raise UserError("not a PyTorch state dict: there are no tensors in it")
    return arrays


def _unwrap(state: Any) -> Any:
    """Returns the state dict of a file that holds more."""
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            return state[key]
    return state


def _read_legacy(data: bytes) -> Any:
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _MAGIC:
        raise UserError("not a PyTorch file")
    for _ in range(2):  # These are the protocol's version and the system's info.
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    state = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise UserError(f"storage {key} holds {count} numbers, not {storage.count}")
        _fill(key, storage, file.read(storage.count * storage.dtype.itemsize))
    return state


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
        if packed:  # What is stored cannot be larger than the file.
            raise UserError(f"{packed[0]} is compressed, which torch never does")
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise UserError(f"a zip archive with {len(names)} data.pkl in it, not one")
        (name,) = names
        folder = name.removesuffix("data.pkl")
        byteorder = f"{folder}byteorder"
        if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
            raise UserError("its numbers are not little-endian")
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        state = unpickler.load()
        sizes = (s.count * s.dtype.itemsize for s in unpickler.storages.values())
        if sum(sizes) > len(data):
            raise UserError("its storages are larger than the file")
        for key, storage in unpickler.storages.items():
            _fill(key, storage, archive.read(f"{folder}data/{key}"))
    return state


def _fill(key: str, storage: _Storage, raw: bytes) -> None:
    size = storage.count * storage.dtype.itemsize
    if size < 0:
        raise UserError(f"storage {key} has {storage.count} numbers")
    if len(raw) < size:
        raise UserError(f"storage {key} is truncated: {len(raw)} of {size} bytes")
    storage.values = np.frombuffer(raw, storage.dtype, storage.count)
