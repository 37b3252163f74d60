"""What a run was made of: versions, devices, revision, data."""

import importlib.metadata
import json
import platform
import subprocess
from typing import Any

import jax
import ml_collections
from etils import epath

from auxseg_jax.data.dataset import Dataset

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
    """The config as JSON would give it back (tuples are lists)."""
    return json.loads(json.dumps(config.to_dict()))


def collect(config: ml_collections.ConfigDict, data: Dataset) -> dict[str, Any]:
    """{"revision", "python", "packages", "devices", "processes", "seed", "data"}; revision is None outside a checkout."""
    return {
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "seed": config.seed,
        "data": {"name": data.name, "digest": data.digest, "classes": list(data.classes)},
    }


def _revision() -> str | None:
    folder = epath.Path(__file__).parent
    try:
        result = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=folder, capture_output=True, text=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
