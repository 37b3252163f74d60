"""`auxseg reproduce`."""

import argparse

DESCRIPTION = """Runs a finished run again, from its manifest, and says of every figure whether it
is equal, within noise, or not. On the same machine with the same versions all are equal. Ends with
1 if a difference is more than noise."""
EXAMPLE = "auxseg reproduce --from=workdirs/demo/manifest.json --workdir=workdirs/again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--from",
        required=True,
        dest="source",
        metavar="MANIFEST",
        help="manifest.json of the run, or its workdir",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the new run")
    parser.add_argument(
        "--data-root", metavar="DIR", help="where the data lie here, if not as in the manifest"
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains, and compares."""
    import os

    from etils import epath

    from auxseg_jax.cli import compare, options
    from auxseg_jax.config import declared
    from auxseg_jax.config.validation import checked
    from auxseg_jax.data import dataset
    from auxseg_jax.devices import preemption
    from auxseg_jax.errors import UserError
    from auxseg_jax.files import storage
    from auxseg_jax.files.terminal import say, stdout
    from auxseg_jax.runs import comparison
    from auxseg_jax.runs.run import train
    from auxseg_jax.runs.workdir import Workdir

    manifest = epath.Path(arguments.source)
    if manifest.is_dir():
        manifest = manifest / "manifest.json"
    if not manifest.exists():
        raise UserError(f"{manifest}: there is no such file")
    content = storage.read_json(manifest)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(f"{manifest} holds no config: it is older than 0.5, or no manifest")
    config, _ = declared.complete(content["config"])
    if arguments.data_root:
        if "root" not in config.data:
            raise UserError(f"--data-root: the data of {manifest} are generated, and have no root")
        config.data.root = arguments.data_root
    config = checked(config)
    before, again = Workdir(manifest.parent), Workdir(arguments.workdir)
    if not any(comparison.figures_of(before).values()):
        raise UserError(f"{before} holds no figures to compare with; keep DONE.json of its phases")
    if os.path.realpath(before.path) == os.path.realpath(again.path):
        raise UserError("--workdir is the workdir of the run itself; name a new folder")
    now = dataset.prepare(**config.data).digest
    if now != content.get("data", {}).get("digest"):
        say("note: the data are not those of the manifest, so figures will differ")
    preemption.install()
    try:
        train(config, again.path)
    except preemption.Preempted as error:
        options.end(f"{error}; the same command goes on", preemption.EXIT_CODE)
    found = comparison.compare(before, again)
    compare.show(found, stdout)
    if found.verdict not in (comparison.EQUAL, comparison.NOISE):
        options.end("not reproduced: a difference is more than noise", 1)
