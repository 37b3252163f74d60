"""Reads pickles of known content, and refuses all else.

No code of a file is run, and little memory and time are spent on a hostile one.
"""

import io
import math
import pickle
import pickletools
import re
import struct
import types
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from auxseg_jax.errors import UserError

_INSTRUCTIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
    *("BINSTRING", "SHORT_BINSTRING"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
}
_MEMO_WRITES, _MEMO_READS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_BROKEN_NPY_ERRORS = (
    *(pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError, ValueError),
    *(OverflowError, MemoryError, RecursionError, struct.error),
)


class Unpickler(pickle.Unpickler):
    """Loads a pickle that asks for no global but those of `known`.

    A pickle with odd instructions is refused before it is loaded.

    Attributes:
      known: (module, name) -> what stands for it.
    """

    known: Mapping[tuple[str, str], Any]

    def __init__(self, file: io.BytesIO):
        _look_through(file)
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"refused: the file asks for {module}.{name}")
        return self.known[module, name]


def _look_through(file: io.BytesIO) -> None:
    """Refuses a pickle with instructions that plain data does not need.

    A place in the memo beyond the number of instructions would allocate a memo of that size. A
    tuple used twice can be nested so that hashing or printing it takes for ever. The file's
    position stays.
    """
    start, memoized, tuples, last = file.tell(), 0, set(), ""
    try:
        instructions = list(pickletools.genops(file))
    except (ValueError, IndexError) as error:
        raise pickle.UnpicklingError(str(error)) from error
    for count, (opcode, argument, _) in enumerate(instructions, 1):
        if opcode.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"refused: the instruction {opcode.name}")
        if opcode.name in _MEMO_WRITES and argument > count:
            where = f"place {argument} of the memo after {count} instructions"
            raise pickle.UnpicklingError(f"refused: {where}")
        if opcode.name == "MEMOIZE" or opcode.name in _MEMO_WRITES:
            if last.startswith("TUPLE"):
                tuples.add(memoized if argument is None else argument)
            memoized += 1
        if opcode.name in _MEMO_READS and argument in tuples:
            raise pickle.UnpicklingError("refused: a tuple that is used twice")
        last = opcode.name
    file.seek(start)


def read_npy(data: bytes, known: Mapping[tuple[str, str], Any] = types.MappingProxyType({})) -> Any:
    """Reads the content of a .npy file.

    It is an array, or a pickled object made of arrays, numbers, text, lists and dicts.

    Args:
      data: the file.
      known: (module, name) -> what stands for it, beyond those of numpy. An object that has a
        method `array` is read by that.

    Raises:
      UserError: another format, truncated, or the pickle asks for anything else.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        form = np.lib.format
        is_first = version == (1, 0)
        read_header = form.read_array_header_1_0 if is_first else form.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if not dtype.hasobject:
            return np.load(io.BytesIO(data), allow_pickle=False)
        if shape != ():
            raise UserError("an array of objects, not one object")
        (content,) = _NumpyUnpickler(file, known).load().objects
        return _plain(content)
    except _BROKEN_NPY_ERRORS as error:
        raise UserError(f"not a readable .npy: {error}") from error


def _plain(value: Any, below: int = 2) -> Any:
    """Returns the value with its arrays in place.

    It goes no deeper than a dict of lists, for lists within lists can be made to have no end.
    """
    if hasattr(value, "array"):
        return value.array()
    if not isinstance(value, dict | list | tuple):
        return value
    if not below:
        raise pickle.UnpicklingError("refused: lists within lists")
    if isinstance(value, dict):
        return {key: _plain(entry, below - 1) for key, entry in value.items()}
    return [_plain(entry, 0) for entry in value]


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, name: str, *_: Any):
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"

    def numbers(self, raw: bytes | str) -> np.ndarray:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.name):
            raise pickle.UnpicklingError(f"refused: an array of {self.name}")
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        return np.frombuffer(data, np.dtype(self.order + self.name))


class _Array:
    """Stands for an array of numbers, or, with `objects`, of Python objects."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.by_column, content = state
        self.objects = content if isinstance(content, list) else None
        self.raw = content

    def array(self) -> np.ndarray:
        flat = self.dtype.numbers(self.raw)
        if not all(type(n) is int and n >= 0 for n in self.shape):
            raise pickle.UnpicklingError("an array whose shape is not made of whole numbers")
        if math.prod(self.shape) != flat.size:
            raise pickle.UnpicklingError(f"an array of size {self.shape} with {flat.size} numbers")
        return flat.reshape(self.shape, order="F" if self.by_column else "C")


def _scalar(dtype: _Dtype, raw: bytes | str) -> Any:
    return dtype.numbers(raw)[0].item()


class _NumpyUnpickler(Unpickler):
    """Knows what a dict of arrays is made of."""

    _numpy_names: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
        **{
            (f"numpy.{core}.multiarray", name): value
            for core in ("core", "_core")
            for name, value in (("_reconstruct", lambda *_: _Array()), ("scalar", _scalar))
        },
    }

    def __init__(self, file: io.BytesIO, known: Mapping[tuple[str, str], Any]):
        super().__init__(file)
        self.known = self._numpy_names | dict(known)
