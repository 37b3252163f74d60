"""8 fake CPU devices, set before JAX starts; fixtures and helpers that tests share; flags."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

# A shell's background job ignores Ctrl-C, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Most of the time of the tests is compilation, which takes a third less without optimisation. Your
# own flags come last, so XLA_FLAGS=--xla_backend_optimization_level=3 tests what users run.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    + os.environ.get("XLA_FLAGS", "")
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import ml_collections
import numpy as np
import pytest
from etils import epath
from jaxtyping import install_import_hook
from PIL import Image

# Shapes in signatures are checked here, in tests alone.
_CHECKED = ["models", "pseudo", "training.losses"]
_CHECKED += [
    f"inference.{name}" for name in ("cam", "crf", "permutohedral", "segmentation", "views")
]
install_import_hook([f"auxseg_jax.{name}" for name in _CHECKED], "beartype.beartype")

from auxseg_jax import trees
from auxseg_jax.configs import tiny
from auxseg_jax.data import dataset
from auxseg_jax.devices import compilation
from auxseg_jax.errors import UserError
from auxseg_jax.files import images, storage
from auxseg_jax.runs.run import train
from auxseg_jax.weights import names

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
AFFINITY = {
    "pairwise": True,
    "unary": True,
    "cross_task": True,
    "refine": "both",
    "whiten": True,
    "scale": False,
    "cosine": 10.0,
    "normalize_rows": False,
}
"""Switches of the affinity, with which the tests of the network begin."""


def pytest_addoption(parser):
    """Where the files are that are not in the repository; tests skip where they are absent."""
    shared = REPOSITORY.parent / "shared"
    parser.addoption(
        "--coco-mini",
        default=str(shared / "data" / "coco_mini"),
        help="a few COCO photos in the official layout",
    )
    parser.addoption(
        "--msrc", default=str(shared / "data" / "msrc"), help="VOC-style folder of real photos"
    )
    parser.addoption(
        "--recorded",
        default=str(shared / "fixtures"),
        help="arrays recorded from the authors' code",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Takes `--fixtures DIR` for `--recorded DIR`, as earlier versions had it.

    pytest has a flag --fixtures, which lists its own. With a folder of arrays after it, it means
    ours.
    """
    tests = pathlib.Path(__file__).parent
    folders = [
        arg
        for arg in config.args
        if pathlib.Path(arg).is_dir() and not pathlib.Path(arg).resolve().is_relative_to(tests)
    ]
    if config.option.showfixtures and folders:
        config.option.recorded = folders[-1]
        config.args = [arg for arg in config.args if arg not in folders]
        config.option.showfixtures = False
    given = config.option.recorded
    is_default = given == str(REPOSITORY.parent / "shared" / "fixtures")
    if not is_default and not any(pathlib.Path(given).glob("*.npz")):
        raise pytest.UsageError(f"--recorded: there are no recorded arrays (*.npz) in {given}")


def pytest_collection_modifyitems(items):
    """Marks the tests that need a whole run, which takes the better part of a minute, as slow."""
    for item in items:
        if "finished" in item.fixturenames:
            item.add_marker("slow")


def recorded_arrays(config) -> pathlib.Path:
    """The folder of the recorded arrays; it may be absent."""
    return pathlib.Path(config.option.recorded)


@pytest.fixture
def compare(record_property):
    """compare(name, found, wanted, rtol=, atol=) asserts, and notes the worst error."""

    def check(name, found, wanted, rtol=0.0, atol=0.0):
        found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
        assert found.shape == wanted.shape, f"{name}: shape {found.shape}, recorded {wanted.shape}"
        worst, scale = np.abs(found - wanted).max(), np.abs(wanted).max()
        record_property("worst error", (name, float(worst), float(worst / max(scale, 1e-30))))
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=name)

    return check


def pytest_terminal_summary(terminalreporter):
    """The worst error of every array that was compared with a recorded one."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    if errors := [
        value for report in reports for key, value in report.user_properties if key == "worst error"
    ]:
        terminalreporter.section(
            "worst error of each recorded array: absolute, relative to its largest number"
        )
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
def compilation_cache(request):
    """Compiled programs are kept between test sessions, and shared by their processes."""
    compilation.set_compilation_cache(str(request.config.cache.mkdir("xla")))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tiny_config(folder, **changes) -> ml_collections.ConfigDict:
    config = tiny.get_config()
    config.data.cache_dir = str(folder / "data")
    config.compilation_cache = jax.config.jax_compilation_cache_dir
    for key, value in changes.items():
        section, field = key.split("__")
        config[section][field] = value
    return config


def launch(*arguments, **environment) -> subprocess.Popen:
    """Starts launch.py in a process of its own, with all its output in one pipe."""
    return subprocess.Popen(
        [sys.executable, "launch.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*arguments, **environment):
    """Runs launch.py to its end; returns (exit status, output)."""
    process = launch(*arguments, **environment)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


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
    """(workdir, results, config) of a run without a stop; the first process to ask makes it."""
    # The processes of pytest-xdist have folders of their own in a common one.
    common = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        common = common.parent
    base = pathlib.Path(common) / "finished"
    config = tiny_config(base)
    with storage.lock(base / ".lock", wait=True):
        results = train(config, base / "run").to_json()
    return base / "run", results, config


def state_dict(params, naming):
    """{key: array in torch's layout} of the parameters that the naming knows."""
    flat = trees.flatten(params)
    keys = names.keys_of(flat, naming)
    return {key: names.from_layout(name, np.asarray(flat[name])) for name, key in keys.items()}


@contextlib.contextmanager
def faults_named(*expected):
    """The body raises UserError, which names all of them."""
    with pytest.raises(UserError) as error:
        yield
    for fault in expected:
        assert fault in str(error.value), f"{fault!r} is not in:\n{error.value}"


def prepare_files(builder, root, tmp_path, train="train", val="val", **fields):
    """Prepares a data set that comes as files; its own fields beside its splits."""
    fields = {"saliency": "Saliency"} | fields
    return dataset.prepare(
        builder=builder,
        train_split=train,
        val_split=val,
        cache_dir=str(tmp_path / "cache"),
        root=str(root),
        **fields,
    )


def run_lengths(plane):
    """COCO's run lengths of a bool plane: column by column, starting outside."""
    flat = np.concatenate([[0], plane.T.reshape(-1).astype(int)])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [flat.size - 1]])).tolist()


@pytest.fixture
def coco(tmp_path, rng):
    """The official layout: a grey photo, one without objects, a crowd, a gap in the ids."""
    root = tmp_path / "coco"
    categories = [{"id": 1, "name": "person"}, {"id": 4, "name": "traffic light"}]
    (root / "annotations").mkdir(parents=True)
    (root / "Saliency").mkdir()
    for split, ids in {"train": (9, 25, 30), "val": (42, 73)}.items():
        (root / f"{split}2014").mkdir()
        entries, annotations = [], []
        for k, key in enumerate(ids):
            name = f"COCO_{split}2014_{key:012d}"
            shape = (24, 32) if k == 1 else (24, 32, 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(
                root / f"{split}2014" / f"{name}.jpg"
            )
            images.write_grey_png(
                root / "Saliency" / f"{name}.png", rng.integers(0, 256, (24, 32), np.uint8)
            )
            entries.append({"id": key, "file_name": f"{name}.jpg", "height": 24, "width": 32})
            if k == 0:
                annotations.append(
                    {
                        "image_id": key,
                        "category_id": 4,
                        "iscrowd": 0,
                        "area": 40.0,
                        "segmentation": [[3, 3, 20, 3, 20, 15, 3, 15]],
                    }
                )
                crowd = np.zeros((24, 32), bool)
                crowd[5:20, 10:30] = True
                annotations.append(
                    {
                        "image_id": key,
                        "category_id": 1,
                        "iscrowd": 1,
                        "area": 300,
                        "segmentation": {"size": [24, 32], "counts": run_lengths(crowd)},
                    }
                )
        content = {"images": entries, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
    return root
