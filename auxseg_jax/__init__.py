"""AuxSegNet+ in JAX: weakly supervised semantic segmentation from image-level labels.

    import auxseg_jax

    config = auxseg_jax.load_config("msrc", **{"data.root": "photos", "stages.count": 2})
    results = auxseg_jax.train(config, "workdirs/photos")
    predictor = auxseg_jax.load("workdirs/photos")
    (prediction,) = predictor.predict(["cow.jpg"])
    prediction.labels, predictor.classes

Importing the package is quick: JAX and the rest are imported at the first use of one of these
names.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.8.0"

if TYPE_CHECKING:
    from auxseg_jax.api import (
        Evaluation,
        Prediction,
        Predictor,
        Results,
        UserError,
        evaluate,
        load,
        load_config,
        predict_files,
        train,
    )

__all__ = [
    "Evaluation",
    "Prediction",
    "Predictor",
    "Results",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "load_config",
    "predict_files",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from auxseg_jax import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
