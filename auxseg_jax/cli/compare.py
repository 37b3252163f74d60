"""`auxseg compare`."""

import argparse

DESCRIPTION = """Compares two runs: first what differs in their configs, machines and data, then
every figure with the interval of its difference, then the photos that changed most."""
EXAMPLE = "auxseg compare workdirs/a workdirs/b --output=comparison.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("first", metavar="DIR", help="workdir of a run")
    parser.add_argument("second", metavar="DIR", help="workdir of another run")
    parser.add_argument(
        "--output", metavar="FILE", help="also write a page (.html) with pictures, or JSON (.json)"
    )


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses an output of another kind."""
    if arguments.output and not arguments.output.endswith((".html", ".json")):
        parser.error("--output ends with .html or .json")


def run(arguments: argparse.Namespace) -> None:
    """Prints the comparison."""
    from auxseg_jax.files import storage
    from auxseg_jax.files.terminal import stdout
    from auxseg_jax.runs import comparison
    from auxseg_jax.runs.workdir import Workdir

    first, second = Workdir(arguments.first), Workdir(arguments.second)
    found = comparison.compare(first, second)
    show(found, stdout)
    if arguments.output and arguments.output.endswith(".json"):
        storage.write_json(arguments.output, found.to_json())
    elif arguments.output:
        page = comparison.page(found, first, second)
        storage.write_bytes(arguments.output, page.encode())


def show(found, console) -> None:
    """Prints a `Comparison`."""
    import rich.table

    for title, entries in (("config", found.config), ("machine, data", found.environment)):
        if not entries:
            console.print(f"{title}: nothing differs", markup=False)
        for entry in entries:
            line = f"{title}: {entry.field}: {entry.before} -> {entry.after}"
            console.print(line, markup=False)
    table = rich.table.Table(title="Figures, percent")
    for heading in ("phase", "figure", "first", "second", "difference", "95% interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("phase", "figure") else "right")
    for figure in found.figures:
        span = figure.interval
        table.add_row(
            figure.phase,
            figure.name,
            f"{figure.first:.2f}",
            f"{figure.second:.2f}",
            f"{figure.second - figure.first:+.2f}",
            f"{span.low:+.1f} to {span.high:+.1f}" if span else "",
            figure.verdict,
        )
    console.print(table)
    for name, before, after in found.photos[:5]:
        console.print(f"changed: {name}: IoU {before:.0f}% -> {after:.0f}%", markup=False)
    if found.missing:
        console.print(f"only one of them has {', '.join(found.missing)}", markup=False)
    numbers = f"{found.equal} of {found.total} numbers are equal"
    console.print(f"together: {found.verdict}; {numbers}", markup=False)
