"""`auxseg thresholds`."""

import argparse

DESCRIPTION = """Suggests fuse.cam_threshold and fuse.spill_threshold by the CAMs of a run, from
photos and image labels alone: labelled photos should have little that is salient and has no label.
--oracle reads masks to say what the choice is worth."""
EXAMPLE = "auxseg thresholds --workdir=workdirs/msrc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--oracle",
        action="store_true",
        help="read masks of the training photos: mIoU of the choice, and of the best one",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the thresholds."""
    from auxseg_jax.analysis import thresholds
    from auxseg_jax.files.terminal import stdout
    from auxseg_jax.runs.workdir import Workdir

    found = thresholds.examine(Workdir(arguments.workdir), arguments.oracle)
    names = {"present": found.present, "suggested": found.suggested, "oracle": found.best}
    for name, choice in names.items():
        if choice is None:
            continue
        miou = "" if choice.miou is None else f"; initial labels: mIoU {choice.miou:.1f} (oracle)"
        stdout.print(
            f"{name}: CAM {choice.cam:g}, spill {choice.spill:g}: {100 * choice.covered:.1f}% of "
            f"what is salient in {found.photos} labelled photos has a label, "
            f"{100 * choice.doubted:.1f}% of the rest is in doubt{miou}",
            markup=False,
        )
    if found.regret is not None:
        stdout.print(f"regret of the rule: {found.regret:.1f} points (oracle)", markup=False)
    stdout.print(
        f"a new run with them: --config.fuse.cam_threshold={found.suggested.cam:g} "
        f"--config.fuse.spill_threshold={found.suggested.spill:g}",
        markup=False,
    )
