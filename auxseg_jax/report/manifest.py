"""What a run was made of: versions, devices, revision, data."""

import importlib.metadata
import platform
import subprocess
from typing import Any

import jax
import ml_collections
from etils import epath

from auxseg_jax.data.dataset import Dataset
from auxseg_jax.files import storage

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "ml-collections",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON would give it back (tuples are lists)."""
    return storage.json_like(config.to_dict())


def collect(config: ml_collections.ConfigDict, data: Dataset) -> dict[str, Any]:
    """Returns the manifest.

    Its keys are revision (None outside a checkout), python, packages, devices, processes, seed and
    data.
    """
    return {
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "seed": config.seed,
        "data": {
            "name": data.name,
            "digest": data.digest,
            "state": data.state,
            "classes": list(data.classes),
        },
    }


def _revision() -> str | None:
    """Returns the git revision of the checkout that holds this package, if there is one."""
    folder = epath.Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    tracked = ["git", "ls-files", "--error-unmatch", "manifest.py"]
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 10}
    try:
        if subprocess.run(tracked, **options).returncode:
            return None  # The package is installed, perhaps within a checkout of something else.
        result = subprocess.run(command, **options)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
