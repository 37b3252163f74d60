"""Runs the command line: `python -m auxseg_jax` is `auxseg`."""

from auxseg_jax.cli import main

if __name__ == "__main__":
    main()
