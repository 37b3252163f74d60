"""`auxseg compile`."""

import argparse

from auxseg_jax.cli import options

# The same words as in `analysis.compiled`, which takes seconds to import.
PROGRAMS = ["train", "cam", "classifier_cam", "update", "predict", "post"]
EFFORTS = ["fast", "full"]

DESCRIPTION = """Compiles the programs of a config for devices that are not here, and says what a
device needs and does: memory, arithmetic, messages, and an estimate of the time. Topologies:

  v5e:4x4      TPUs (also v5p, v6e; v5e:16x16*2 are two slices); needs libtpu
  h100:8       GPUs of one machine (also a100, h200, b200, l4, rtx4090; h100:2x8 are two machines);
               needs JAX's CUDA plugin, but not the libraries of CUDA
  cpu:8"""
EXAMPLE = "auxseg compile --config=voc --topology=v5e:4x4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    options.add_config(parser)
    parser.add_argument("--topology", required=True, metavar="KIND:SHAPE", help="the devices")
    parser.add_argument(
        "--effort",
        choices=EFFORTS,
        default="fast",
        help="XLA's optimisation; fast is enough for memory and arithmetic",
    )
    parser.add_argument(
        "--programs",
        type=options.parse_list,
        default=PROGRAMS,
        metavar="NAME,...",
        help=f"which programs ({','.join(PROGRAMS)})",
    )
    parser.add_argument("--output", metavar="FILE", help="write all figures there, as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints a table."""
    from auxseg_jax.analysis import compiled, compiled_table
    from auxseg_jax.files import storage
    from auxseg_jax.files.terminal import stdout

    config = options.load_config(arguments)
    programs = tuple(arguments.programs)
    analysis = compiled.analyse(config, arguments.topology, arguments.effort, programs)
    compiled_table.show(analysis, stdout)
    if arguments.output:
        storage.write_json(arguments.output, analysis.to_json())
