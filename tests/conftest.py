"""8 fake CPU devices, set before jax starts; shared fixtures; --msrc for the tests that use real photos."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import pytest
from etils import epath

from auxseg_jax import platform

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    """Where the real photos are, for the tests that use them."""
    parser.addoption("--msrc", default=str(REPOSITORY.parent / "shared" / "data" / "msrc"), help="VOC-style folder of real photos")


@pytest.fixture(scope="session")
def msrc(request) -> epath.Path:
    """Folder of real photos; tests that use it are skipped where it is absent."""
    path = epath.Path(request.config.getoption("--msrc"))
    if not path.is_dir():
        pytest.skip(f"no real photos at {path} (--msrc=DIR)")
    return path


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compiled programs are kept for the length of a test session."""
    platform.set_compilation_cache(str(tmp_path_factory.mktemp("xla")))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
