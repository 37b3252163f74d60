"""`auxseg audit`."""

import argparse

DESCRIPTION = """Examines whether a run kept its promise: which masks were read, when and what for;
whether anything that was trained could depend on one; whether its pseudo labels are those that it
wrote; which settings differ from the preset, and whether a sweep over masks came before. It reads
no mask itself, and ends with 1 if the promise was broken."""
EXAMPLE = "auxseg audit --workdir=workdirs/msrc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--output", metavar="FILE", help="write all findings there, as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints the findings; ends with 1 if one failed."""
    from auxseg_jax.analysis import audit
    from auxseg_jax.analysis import findings as findings_lib
    from auxseg_jax.cli import options
    from auxseg_jax.files import storage
    from auxseg_jax.files.terminal import stdout
    from auxseg_jax.runs.workdir import Workdir

    findings = list(audit.examine(Workdir(arguments.workdir)))
    for finding in findings:
        stdout.print(f"{finding.status}  {finding.name}: {finding.text}", markup=False)
        if finding.advice:
            stdout.print(f"      {finding.advice}", markup=False)
    if arguments.output:
        storage.write_json(arguments.output, findings_lib.to_json(findings, True))
    if findings_lib.has_failed(findings):
        failed = ", ".join(f.name for f in findings if f.status == findings_lib.FAIL)
        options.end(f"FAIL: {failed}", 1)
