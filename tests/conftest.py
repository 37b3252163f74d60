"""8 fake CPU devices, set before jax starts; shared fixtures; flags of the tests that need files from outside."""

import os
import pathlib
import signal
import subprocess
import sys
import time

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores Ctrl-C, and so would the processes that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import ml_collections
import numpy as np
import pytest
from etils import epath

from auxseg_jax import platform, stages
from configs import tiny

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    """Where the files are that are not in the repository; tests that use them are skipped where they are absent."""
    parser.addoption("--coco-mini", default=str(REPOSITORY.parent / "shared" / "data" / "coco_mini"), help="a few COCO photos in the official layout")
    parser.addoption("--msrc", default=str(REPOSITORY.parent / "shared" / "data" / "msrc"), help="VOC-style folder of real photos")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """`--fixtures DIR`: where the arrays recorded from the authors' code are.

    pytest has a flag of that name, which lists its own fixtures; it cannot be replaced, but with a folder of arrays after
    it, it means ours.
    """
    tests = pathlib.Path(__file__).parent
    folders = [arg for arg in config.args if pathlib.Path(arg).is_dir() and not pathlib.Path(arg).resolve().is_relative_to(tests)]
    if config.option.showfixtures and folders:
        if not any(pathlib.Path(folders[-1]).glob("*.npz")):
            raise pytest.UsageError(f"--fixtures: there are no recorded arrays (*.npz) in {folders[-1]}")
        config.option.recorded_arrays = folders[-1]  # a plain option: the processes of pytest-xdist get it too
        config.args = [arg for arg in config.args if arg not in folders]
        config.option.showfixtures = False


def recorded_arrays(config) -> pathlib.Path:
    """The folder of the recorded arrays; it may be absent."""
    return pathlib.Path(getattr(config.option, "recorded_arrays", REPOSITORY.parent / "shared" / "fixtures"))


@pytest.fixture
def compare(record_property):
    """compare(name, found, wanted, rtol=, atol=): asserts, and notes the worst error for the summary."""

    def check(name, found, wanted, rtol=0.0, atol=0.0):
        found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
        assert found.shape == wanted.shape, f"{name}: shape {found.shape}, recorded {wanted.shape}"
        worst, scale = np.abs(found - wanted).max(), np.abs(wanted).max()
        record_property("worst error", (name, float(worst), float(worst / max(scale, 1e-30))))
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=name)

    return check


def pytest_terminal_summary(terminalreporter):
    """The worst error of every array that was compared with a recorded one."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome) if report.when == "call"]
    if errors := [value for report in reports for key, value in report.user_properties if key == "worst error"]:
        terminalreporter.section("worst error of each recorded array: absolute, relative to its largest number")
        for name, absolute, relative in errors:
            terminalreporter.line(f"{absolute:9.1e} {relative:9.1e}  {name}")


def _folder(request, option: str, what: str) -> epath.Path:
    path = epath.Path(request.config.getoption(option))
    if not path.is_dir():
        pytest.skip(f"no {what} at {path} ({option}=DIR)")
    return path


@pytest.fixture(scope="session")
def msrc(request) -> epath.Path:
    """Folder of real photos; tests that use it are skipped where it is absent."""
    return _folder(request, "--msrc", "real photos")


@pytest.fixture(scope="session")
def coco_mini(request) -> epath.Path:
    """Folder of real COCO photos; tests that use it are skipped where it is absent."""
    return _folder(request, "--coco-mini", "COCO photos")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compiled programs are kept for the length of a test session."""
    platform.set_compilation_cache(str(tmp_path_factory.mktemp("xla")))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tiny_config(folder, **changes) -> ml_collections.ConfigDict:
    config = tiny.get_config()
    config.data.cache_dir = str(folder / "data")
    config.compilation_cache = str(folder / "xla")
    for key, value in changes.items():
        section, field = key.split("__")
        config[section][field] = value
    return config


def launch(*arguments, **environment) -> subprocess.Popen:
    """launch.py in a process of its own, what it says in one pipe."""
    return subprocess.Popen(
        [sys.executable, "launch.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, *processes, seconds=240):
    """Until condition(), while the processes run."""
    end = time.monotonic() + seconds
    while not condition():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, "".join(process.stdout.read() for process in ended)
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(workdir, results, config) of a run that went through without a stop."""
    base = tmp_path_factory.mktemp("finished")
    config = tiny_config(base)
    return base / "run", stages.run(config, base / "run"), config
