"""The command line: help, flags of each command alone, mistakes in one line."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY, launch

from auxseg_jax import cli


@pytest.mark.slow
def test_a_mistyped_override_is_one_line(tmp_path):
    for arguments, message in (
        (
            ("--config=tiny", "--config.stages.epoch=3"),
            "error: the config has no such field:",
        ),
        (
            ("--config=configs/tiny.py", "--config.stage.epochs=3"),
            "error: the config has no such field:",
        ),
        (("--config=configs/msrc.py:ablaton",), "error: configs/msrc.py knows full, ablation,"),
    ):
        process = launch(*arguments, f"--workdir={tmp_path / 'run'}")
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1 and message in output and "Traceback" not in output


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a command that ends early."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_short_help_with_an_example(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and len(out.splitlines()) < 45
    assert out.startswith(f"usage: auxseg {command}") and f"\n  auxseg {command} " in out


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(command in out for command in cli.COMMANDS)
    assert run(capsys)[0] == 2
    code, _, err = run(capsys, "trian")
    assert code == 2 and "there is no command 'trian'; there are train, predict" in err


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("train", "--config=tiny", "--workdir=w", "--effort=full"), "--effort"),
        (("--config=tiny", "--workdir=w", "--post"), "--post"),
        (("predict", "--workdir=w", "--input=a", "--output=b", "--config=tiny"), "--config"),
        (("predict", "--workdir=w", "--input=a", "--output=b", "--config.seed=1"), "--config.seed"),
        (("evaluate", "--config=tiny", "--predictions=p", "--topology=cpu:8"), "--topology"),
        (("labels", "--from=a", "--to=b", "--model=c"), "--model"),
        (("profile", "--config=tiny", "--programs=train"), "--programs"),
        (("compile", "--config=tiny", "--topology=cpu:8", "--work=w"), "--work"),
    ],
)
def test_a_flag_of_another_command_is_unknown(arguments, flag, capsys):
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "unknown arguments: " in err and flag in err


def test_what_is_missing_is_named(capsys):
    code, _, err = run(capsys, "predict", "--workdir=w")
    assert code == 2 and "--input" in err and "--output" in err
    code, _, err = run(capsys, "predict", "--workdir=w", "--input=a", "--output=b", "--point=1")
    assert code == 2 and "x,y in pixels" in err


def test_the_plan_is_printed(capsys):
    cli.main(["train", "--config=tiny", "--workdir=unused", "--plan"])
    out = capsys.readouterr().out
    assert "stage_01/pseudo_score" in out and "reads masks of" in out


@pytest.mark.slow
def test_importing_the_package_imports_nothing_heavy():
    script = """
import sys, auxseg_jax, auxseg_jax.cli
assert not {"jax", "flax", "numpy", "absl", "rich", "tensorflow_datasets"} & set(sys.modules)
assert {"train", "load", "evaluate", "load_config"} <= set(dir(auxseg_jax))
auxseg_jax.load_config("tiny")
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
