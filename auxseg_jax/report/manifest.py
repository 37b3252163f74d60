"""What a run was made of: versions, devices, revision, data."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

import jax
import ml_collections
from etils import epath

from auxseg_jax import __version__
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


_FLAGS = (
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS", "JAX_ENABLE_X64"),
    *("JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE"),
)
"""Variables of the environment that change what is computed."""


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON would give it back (tuples are lists)."""
    return storage.json_like(config.to_dict())


def collect(config: ml_collections.ConfigDict, data: Dataset) -> dict[str, Any]:
    """Returns the manifest.

    It holds what a rerun needs, see docs/reports.md. `revision` and `is_clean` are None outside a
    checkout.
    """
    revision = _revision()
    return {
        "version": __version__,
        "revision": revision,
        "is_clean": None if revision is None else not _git("status", "--porcelain"),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "cpus": len(os.sched_getaffinity(0)),
        "processes": jax.process_count(),
        "precision": config.model.precision,
        "flags": {name: os.environ[name] for name in _FLAGS if name in os.environ},
        "pretrained": _hash(config.pretrained.path),
        "seed": config.seed,
        "data": {
            "name": data.name,
            "digest": data.digest,
            "state": data.state,
            "classes": list(data.classes),
        },
        "config": plain(config),
    }


def _hash(path: str) -> str | None:
    """Returns the SHA-256 of a file, or of all files of a folder; None without a path."""
    if not path:
        return None
    found, root = hashlib.sha256(), epath.Path(path).expanduser()
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    for file in files:
        found.update(str(file.relative_to(root)).encode())
        with file.open("rb") as content:
            while block := content.read(2**24):
                found.update(block)
    return found.hexdigest()


def _revision() -> str | None:
    """Returns the git revision of the checkout that holds this package, if there is one."""
    if _git("ls-files", "manifest.py") != "manifest.py":
        return None  # The package is installed, perhaps within a checkout of something else.
    return _git("describe", "--always", "--dirty", "--abbrev=40") or None


def _git(*arguments: str) -> str:
    """Returns what git says in the folder of this package; "" where it fails."""
    folder = epath.Path(__file__).parent
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 10}
    try:
        return subprocess.run(["git", *arguments], **options).stdout.strip()
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
