"""Reads the text of compiled programs (HLO): messages between devices, and large results."""

import collections
import re
from typing import Any, NamedTuple

import numpy as np

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_WITHOUT_WORK = ("get-tuple-element", "parameter", "bitcast", "tuple", "constant")
_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
}


class Result(NamedTuple):
    """A result of an operation.

    Attributes:
      bytes: its size, padded as the device keeps it.
      shape: type, shape and layout, as HLO writes them.
      operation: name of the operation in the source.
    """

    bytes: int
    shape: str
    operation: str


def collectives(hlo: str, devices: int) -> dict[str, dict[str, int]]:
    """Counts the messages between `devices`.

    Returns:
      {kind: {"count", "bytes" of the results, "sent_bytes" by a device on a ring}}.
    """
    totals: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    pattern = re.compile(rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(")
    scatters = False
    for line in hlo.splitlines():
        if line.endswith("{"):
            # A TPU's name for a sum of which each device takes its part.
            scatters = line.lstrip("%").startswith("all-reduce-scatter")
        if not (match := pattern.search(line)):
            continue
        result, kind, start = match.groups()
        size = sum(shape_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", result))
        group = _group_size(line) or devices
        if start and kind != "all-reduce":  # It names its operands beside its results.
            shares = {"all-gather": group / (group + 1), "reduce-scatter": 1 / (group + 1)}
            size *= shares.get(kind, 1 / 2)
        if scatters:
            kind, size = "reduce-scatter", size / group
        sent = round(size * _sent_share(kind, group))
        totals[kind].update({"count": 1, "bytes": round(size), "sent_bytes": sent})
    return {kind: dict(totals[kind]) for kind in _COLLECTIVES if kind in totals}


def _sent_share(kind: str, group: int) -> float:
    """Returns what a device of a ring sends, as a multiple of the result."""
    others = (group - 1) / group
    return {
        "all-reduce": 2 * others,
        "all-gather": others,
        "reduce-scatter": group - 1,
        "all-to-all": others,
        "collective-permute": 1,
    }[kind]


def _group_size(line: str) -> int:
    """Returns how many devices talk to each other; 0: all."""
    if axes := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return int(np.prod([int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2])]))
    if groups := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(groups[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(listed[1].split(",")) if listed else 0


def shape_bytes(dtype: str, dimensions: str) -> int:
    """Returns the bytes of an array, of a shape such as "8,128"."""
    sizes = [int(n) for n in dimensions.split(",") if n]
    return _BYTES.get(dtype, 4) * int(np.prod(sizes, dtype=np.int64))


def loops(hlo: str) -> list[str]:
    """Returns where the loops of a program come from."""
    return re.findall(r' while\(.*op_name="([^"]*)"', hlo)


def largest_results(hlo: str, count: int = 5) -> list[Result]:
    """Returns the largest results of the main program, not of what it calls."""
    operation = re.compile(
        rf"\s*(?:ROOT )?%?\S+ = (.*?) (?!{'|'.join(_WITHOUT_WORK)})[a-z][\w-]*\("
    )
    results: dict[str, Result] = {}
    for line in hlo[hlo.rindex("\nENTRY ") :].splitlines():
        if not (match := operation.match(line)):
            continue
        for dtype, dimensions, layout in re.findall(r"(\w+)\[([\d,]+)\](\{[^}]*\})?", match[1]):
            name = re.search(r'op_name="([^"]*)"', line)
            size = _padded_bytes(dtype, [int(n) for n in dimensions.split(",")], layout)
            shape = f"{dtype}[{dimensions}]{layout}"
            results.setdefault(shape, Result(size, shape, name[1] if name else ""))
    return sorted(results.values(), key=lambda result: -result.bytes)[:count]


def moved_bytes(hlo: str) -> int:
    """Returns what the main program reads and writes, as if nothing stayed in a cache.

    Each of its operations reads its operands and writes its result. Loops count as one operation.
    """
    sizes: dict[str, int] = {}
    total = 0
    for line in hlo[hlo.rindex("\nENTRY ") :].splitlines():
        match = re.match(r"\s*(?:ROOT )?(%?[\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)", line)
        if not match:
            continue
        name, shape, kind, operands = match.groups()
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
        sizes[name] = sum(shape_bytes(dtype, dimensions) for dtype, dimensions in arrays)
        # What an operation that was started gives when it is done is counted at its start.
        if kind not in _WITHOUT_WORK and not kind.endswith("-done"):
            read = {operand for operand in re.findall(r"%?[\w.-]+", operands) if operand in sizes}
            total += sizes[name] + sum(sizes[operand] for operand in read)
    return total


def _padded_bytes(dtype: str, dimensions: list[int], layout: str) -> int:
    """Returns the bytes of an array as the device keeps it.

    {1,0:T(8,128)} is a layout whose last two dimensions are padded to multiples of 8 and 128.
    """
    order = [int(n) for n in re.findall(r"\d+", layout.split(":")[0])]
    order = order or list(range(len(dimensions)))[::-1]
    tile = re.search(r":T\(([\d,]+)\)", layout)
    parts = reversed([int(n) for n in tile[1].split(",")]) if tile else ()
    for minor, part in zip(order, parts, strict=False):
        dimensions[minor] = -(-dimensions[minor] // part) * part
    return shape_bytes(dtype, ",".join(map(str, dimensions)))


def missing_memory(error: str) -> int | None:
    """Returns the bytes that a program needs, from the error that they are not there.

    None: the error says something else.
    """
    wordings = r"memory space hbm\. Used |on HBM, the total memory required for HLO temporaries \("
    used = re.search(rf"(?:{wordings})([\d.]+)([KMGT])(?: of|\))", error)
    return int(float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1)) if used else None


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Returns results as JSON has them."""
    return [result._asdict() for result in results]
