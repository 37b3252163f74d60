"""Prints what `compiled.analyse` found."""

import rich.console
import rich.table

from auxseg_jax.analysis.compiled import Analysis, Program
from auxseg_jax.analysis.targets import SOURCE

_HEADINGS = (
    "fits",
    "memory\nGiB",
    "arguments\nGiB",
    "temporary\nGiB",
    "code\nMiB",
    "TFLOP",
    "moved\nGB",
    "sent\nGB",
    "estimated\nseconds",
    "utilization",
)
_FITS = {True: "yes", False: "no", None: "?"}


def show(analysis: Analysis, console: rich.console.Console) -> None:
    """Prints a table of the programs, and the messages and loops of each."""
    mesh = " x ".join(f"{name} {size}" for name, size in analysis.mesh.items())
    title = f"{analysis.topology}: {analysis.chips} devices, {mesh}; per device"
    table = rich.table.Table(title=f"{title} (effort {analysis.effort})")
    table.add_column("program")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for name, program in analysis.programs.items():
        table.add_row(name, *_cells(program))
    console.print(table)
    for name, program in analysis.programs.items():
        for line in _remarks(program):
            console.print(f"{name}: {line}", markup=False)
    if any(program.seconds for program in analysis.programs.values()):
        slices = "; messages between slices are not in it" if "*" in analysis.topology else ""
        if "x" in analysis.topology.partition(":")[2] and analysis.topology[0] != "v":
            slices = "; messages between machines count as if NVLink joined them"
        console.print(
            "Estimated: the longest of arithmetic, memory and messages, each at the chip's peak "
            f"for its precision ({SOURCE}){slices}.",
            markup=False,
        )


def _cells(program: Program) -> list[str]:
    fits = _FITS[program.fits]
    if program.flops is None:
        return [fits, _gib(program.memory_bytes)]
    sizes = (program.memory_bytes, program.argument_bytes, program.temp_bytes)
    cells = [fits, *map(_gib, sizes), f"{program.code_bytes / 2**20:.0f}"]
    cells += [f"{program.flops / 1e12:.3g}", f"{program.moved_bytes / 1e9:.3g}"]
    cells.append(f"{program.sent_bytes / 1e9:.3g}")
    if program.seconds:
        cells += [f"{program.step_seconds:.3g}", f"{100 * program.utilization:.0f}%"]
    return cells


def _remarks(program: Program) -> list[str]:
    lines = []
    if program.collectives:
        kinds = (
            f"{entry['count']} {kind} of {entry['bytes'] / 1e6:.3g} MB"
            for kind, entry in program.collectives.items()
        )
        lines.append(", ".join(kinds))
    if program.loops:
        count = len(program.loops)
        lines.append(f"{count} loops, as of affinities in blocks: one round of each is counted")
    return lines


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
