"""`auxseg doctor`."""

import argparse

DESCRIPTION = """Examines this machine, in two minutes if nothing else runs: versions, devices and
memory; whether the authors' network gives their recorded numbers here, and random walk and CRF
those of numpy; the speed of a train step in each precision, of the loader, and of a checkpoint. It
says PASS, or what is wrong and what to do. With --full it also times ResNet38, EfficientNet-Lite0,
the CRF on a photo of usual size, and a whole run of --config=demo: some minutes on a GPU, up to an
hour on a CPU."""
EXAMPLE = "auxseg doctor --workdir=workdirs --output=doctor.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--workdir",
        default=".",
        metavar="DIR",
        help="folder where runs will write, by default this one; a checkpoint is written there, "
        "read and removed",
    )
    parser.add_argument("--full", action="store_true", help="time real networks and a whole run")
    parser.add_argument("--output", metavar="FILE", help="write all figures there, as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints findings as they come; ends with 1 if one failed."""
    from auxseg_jax.analysis import doctor
    from auxseg_jax.analysis import findings as findings_lib
    from auxseg_jax.cli import options
    from auxseg_jax.files import storage
    from auxseg_jax.files.terminal import stdout

    findings = []
    for finding in doctor.examine(arguments.workdir, arguments.full):
        line = f"{finding.status}  {finding.name}: {finding.text} ({finding.seconds:.1f} s)"
        stdout.print(line, markup=False)
        if finding.advice:
            stdout.print(f"      {finding.advice}", markup=False)
        findings.append(finding)
        if arguments.output:  # Written each time, so that a run that is cut off leaves what it has.
            storage.write_json(arguments.output, findings_lib.to_json(findings, False))
    if arguments.output:
        storage.write_json(arguments.output, findings_lib.to_json(findings, True))
    stdout.print(findings_lib.end_of(findings), markup=False)
    if findings_lib.has_failed(findings):
        options.end("each line above says what to do", 1)
