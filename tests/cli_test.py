"""The command line: help, flags of each command alone, mistakes in one line."""

import argparse
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY, launch

from auxseg_jax import api, cli
from auxseg_jax.cli import options
from auxseg_jax.errors import UserError


@pytest.mark.slow
def test_a_mistyped_override_is_one_line(tmp_path):
    arguments = ("--config=configs/tiny.py", "--config.stage.epochs=3")
    process = launch(*arguments, f"--workdir={tmp_path / 'run'}")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "Traceback" not in output
    assert "error: the config has no such field:" in output


def config_of(name, *extra):
    """The config of a command line, as `auxseg train` reads it."""
    overrides, unknown = cli.split_overrides(extra)
    assert not unknown
    return options.load_config(argparse.Namespace(config=name, overrides=overrides))


def test_overrides():
    config = config_of("tiny", "--config.stages.count", "3", "--config.mesh.data", "-1")
    assert (config.stages.count, config.mesh.data) == (3, -1)
    config = config_of("tiny", "--noconfig.post.flip", "--config.post.scales=(0.5,1.0)")
    assert config.post.flip is False and config.post.scales == (0.5, 1.0)
    assert config_of("tiny", "--config.predict.flip", "True").predict.flip is True
    assert cli.split_overrides(["--config.seed=1", "2", "--x"]) == (
        ["--config.seed=1"],
        ["2", "--x"],
    )


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        (
            "tiny",
            "--config.stages.epoch=3",
            "the config has no such field: stages.epoch; did you mean stages.epochs?",
        ),
        ("tiny", "--noconfig.post.flp", "no such field: post.flp; did you mean post.flip?"),
        ("tiny", "--config.seed=x", "flag --config.seed=x: "),
        ("tiny", "--config.=1", "--config.=1: "),
        ("tiny", "--config.model.dilations[0]=5", "is not a valid index"),
        ("tiny", "--noconfig.post.flip=True", "does not take an argument"),
        ("configs/msrc.py:ablaton", "--config.seed=1", "configs/msrc.py knows full, ablation,"),
    ],
)
def test_overrides_that_cannot_be_are_named(name, override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        config_of(name, override)


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
    assert code == 2 and "there is no command 'trian' (did you mean train?); there are train" in err


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


def test_several_inputs_in_every_spelling(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(api, "predict_files", lambda *args, **_: given.append(args[1]) or (3, []))
    for spelling in (["--input=a", "b", "--input=c=d"], ["--input", "a", "b", "c=d"]):
        cli.main(["predict", "--workdir=w", *spelling, "--output=o"])
    assert given == [["a", "b", "c=d"]] * 2
    cli.main(["predict", "--workdir=w", "--input=-a", "--input=b", "--output=o"])
    assert given[2:] == [["-a", "b"]]


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
