"""`auxseg train`."""

import argparse
import faulthandler
import traceback

from auxseg_jax.cli import options

DESCRIPTION = """Runs the whole method, or goes on with it: classifier, CAMs, pseudo labels, stages
of training and label update, evaluation. It can be stopped, or killed, at any moment; the same
command goes on from the last checkpoint."""
EXAMPLE = "auxseg train --config=demo --workdir=workdirs/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    options.add_config(parser)
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="folder of everything the run writes, and of what it resumes from",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the phases of the run, and do nothing"
    )
    group = parser.add_argument_group("several processes (docs/pods.md)")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the others: JAX asks the cluster (TPU pod, SLURM, Kubernetes, MPI)",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of the first process, where there is no such cluster",
    )
    group.add_argument("--processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses flags that do not go together."""
    if not (arguments.workdir or arguments.plan):
        parser.error("the following arguments are required: --workdir")
    together = (arguments.coordinator, arguments.processes, arguments.process)
    if len({value is None for value in together}) > 1:
        parser.error("--coordinator, --processes and --process go together")


def run(arguments: argparse.Namespace) -> None:
    """Trains, and prints the results."""
    from auxseg_jax.devices import hosts, preemption
    from auxseg_jax.files.terminal import console, stdout
    from auxseg_jax.report import table
    from auxseg_jax.runs.run import train

    config = options.load_config(arguments)
    if arguments.plan:
        _print_plan(config)
        return
    are_several = arguments.distributed or arguments.coordinator is not None
    if not are_several:
        # Where another process is gone JAX says so, and aborts. The stacks of all threads would
        # bury it.
        faulthandler.enable()
    else:
        hosts.initialize(arguments.coordinator, arguments.processes, arguments.process)
        console.quiet = stdout.quiet = not hosts.is_first()
    preemption.install()
    try:
        results = train(config, arguments.workdir)
    except preemption.Preempted as error:
        message = f"{error}; the same command goes on from {arguments.workdir}"
        # An orderly end of one of several processes would wait for the others, which wait for it.
        options.end(message, preemption.EXIT_CODE, at_once=are_several)
    except Exception as error:
        if are_several:
            _end_together(error)
        raise
    table.show(results, stdout)
    folder = arguments.workdir
    stdout.print(
        f"results: {folder}/results.json   masks: {folder}/stage_*/val   "
        f"pseudo labels: {folder}/stage_*/pseudo   to look at: {folder}/report.html",
        markup=False,
    )
    if results.review:
        root = config.data.get("root") or "PHOTOS"
        stdout.print(
            f"Look at {folder}/review/sheet.jpg. Masks of all photos: auxseg predict "
            f"--workdir={folder} --input={root}/JPEGImages --output=masks --show=overlay",
            markup=False,
        )


def _end_together(error: Exception) -> None:
    """Ends one of several processes at once, with what a user should do, unless it is their error.

    Their own errors are printed by the caller.
    """
    from auxseg_jax.errors import UserError
    from auxseg_jax.files.terminal import first_line

    if isinstance(error, UserError | OSError):
        return
    traceback.print_exc()
    options.end(
        "error: another process of the run is gone, or this one failed: "
        f"{first_line(error)}\nstart all of them again: they go on",
        1,
        at_once=True,
    )


def _print_plan(config) -> None:
    import rich.table

    from auxseg_jax.config.validation import checked
    from auxseg_jax.files.terminal import stdout
    from auxseg_jax.runs.phases import describe
    from auxseg_jax.runs.run import every_phase

    config = checked(config)
    phases = every_phase(config)
    table = rich.table.Table(title="Phases, if both splits have masks to score with")
    for heading in ("phase", "needs", "writes", "reads masks of"):
        table.add_column(heading)
    for row in describe(phases):
        table.add_row(*row)
    stdout.print(table)
