"""Unpickling what is known, and nothing else: no code of a file is run, and little memory and time are spent on a hostile one."""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

_INSTRUCTIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT"),
    *("BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM"),
    *("SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT"),
    *("MEMOIZE", "BINGET", "LONG_BINGET"),
    *("BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
}
_TO_PLACE, _FROM_PLACE = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")  # of the memo


class Unpickler(pickle.Unpickler):
    """Loads a pickle that asks for no global but those of `known`; where instructions are odd, it refuses before it loads.

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
    """Refuses a pickle with instructions that plain data does not need; leaves the file where it was.

    A place in the memo beyond the number of instructions would allocate a memo of that size. A tuple used twice can be nested
    so that hashing or printing it takes for ever.
    """
    start, memoized, tuples, last = file.tell(), 0, set(), ""
    try:
        instructions = list(pickletools.genops(file))
    except (ValueError, IndexError) as error:
        raise pickle.UnpicklingError(str(error)) from error
    for count, (opcode, argument, _) in enumerate(instructions, 1):
        if opcode.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"refused: the instruction {opcode.name}")
        if opcode.name in _TO_PLACE and argument > count:
            raise pickle.UnpicklingError(f"refused: place {argument} of the memo after {count} instructions")
        if opcode.name == "MEMOIZE" or opcode.name in _TO_PLACE:
            if last.startswith("TUPLE"):
                tuples.add(memoized if argument is None else argument)
            memoized += 1
        if opcode.name in _FROM_PLACE and argument in tuples:
            raise pickle.UnpicklingError("refused: a tuple that is used twice")
        last = opcode.name
    file.seek(start)
