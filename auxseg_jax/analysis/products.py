"""Reads the products of a lowered program (StableHLO): what they multiply, and how precisely.

Every compiler is given the same program, so what is read here holds for each device.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

_DOT, _CONVOLUTION = "stablehlo.dot_general", "stablehlo.convolution"
# The regions of this operation see one device's part of the arrays.
_ONE_DEVICE = "sdy.manual_computation"


class Product(NamedTuple):
    """A matrix product or a convolution.

    Attributes:
      operation: its name in the source, which begins with the modules that it is in.
      dtype: type of what is multiplied, "f32" or "bf16".
      precision: "default", "high" or "highest", the less precise of both operands.
      flops: arithmetic of a call on one device. The body of a loop counts once.
    """

    operation: str
    dtype: str
    precision: str
    flops: float


def products(lowered: jax.stages.Lowered, devices: int = 1) -> list[Product]:
    """Returns all products of a program that `devices` share."""
    module = lowered.compiler_ir()
    functions = {
        op.attributes["sym_name"].value: op
        for op in (entry.operation for entry in module.body.operations)
        if op.name == "func.func"
    }
    return list(_walk(functions["main"], functions, 1 / devices))


def _walk(operation: Any, functions: dict[str, Any], share: float) -> Iterator[Product]:
    """Yields the products of an operation and of all that it holds or calls."""
    if operation.name in (_DOT, _CONVOLUTION):
        yield _product(operation, share)
    elif operation.name == "func.call":
        yield from _walk(functions[operation.attributes["callee"].value], functions, share)
    if operation.name == _ONE_DEVICE:
        share = 1.0
    for region in operation.regions:
        for block in region:
            for inner in block.operations:
                yield from _walk(inner.operation, functions, share)


def _product(operation: Any, share: float) -> Product:
    left, right = (value.type for value in operation.operands)
    attributes = operation.attributes
    terms = _dot_terms if operation.name == _DOT else _convolution_terms
    results = math.prod(operation.results[0].type.shape)
    order = ("DEFAULT", "HIGH", "HIGHEST")
    given = [re.search(r"HIGHEST|HIGH|DEFAULT", str(x))[0] for x in attributes["precision_config"]]
    return Product(
        operation=str(operation.location).split('"')[1],
        dtype=str(left.element_type),
        precision=min(given, key=order.index).lower(),
        flops=2.0 * share * results * terms(attributes, left.shape, right.shape),
    )


def _dot_terms(attributes: Any, left: list[int], right: list[int]) -> float:
    """Returns how many products each number of the result is a sum of."""
    text = str(attributes["dot_dimension_numbers"])
    summed = re.search(r"lhs_contracting_dimensions = \[([\d, ]*)\]", text)
    return math.prod(left[int(n)] for n in summed[1].split(",")) if summed else 1


def _convolution_terms(attributes: Any, left: list[int], right: list[int]) -> float:
    """Returns how many products each number of the result is a sum of, of the padding, too.

    Zeros between the numbers of a dilated input are not multiplied.
    """
    layout = re.search(r"x\[(.*?)\]", str(attributes["dimension_numbers"]))[1].split(", ")
    terms = math.prod(size for size, name in zip(right, layout, strict=True) if name != "o")
    if "lhs_dilation" in attributes:
        dilation = re.search(r"i64: ([\d, ]+)", str(attributes["lhs_dilation"]))[1]
        terms /= math.prod(int(n) for n in dilation.split(","))
    return terms
