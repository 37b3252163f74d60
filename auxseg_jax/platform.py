"""What differs between CPU, GPU and TPU is decided here: compiler options and the compilation cache.

The other platform-dependent choice, the lowering of depthwise convolutions, is a function of its own:
`auxseg_jax.models.layers.depthwise_conv`.
"""

from collections.abc import Callable

import jax
from etils import epath

_QUICK_OPTIONS = {"cpu": {"xla_backend_optimization_level": 1}}  # of LLVM; 3 takes twice as long
_COMPILER_OPTIONS = {
    "cpu": {
        # XLA:CPU lowers convolutions to YNNPACK fusions, whose weight gradients are 2.5-7 times slower than they need be.
        "xla_cpu_experimental_ynn_fusion_type": "",
        # The default order of operations favours concurrency: no faster here, takes a fifth to a third more memory, and undoes remat.
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }
}


def jit(fun: Callable, platform: str | None = None, *, once: bool = False, **kwargs) -> Callable:
    """`jax.jit` with the compiler options that a platform needs; by default the default backend's.

    With `once`, of a function that is hardly called more than once, compilation takes half the time, and gives slower code.

    Starts the backend: call it where functions are built, not at import.
    """
    options = _QUICK_OPTIONS if once else _COMPILER_OPTIONS
    return jax.jit(fun, compiler_options=options.get(platform or jax.default_backend()), **kwargs)


def set_compilation_cache(directory: str) -> None:
    """Keeps compiled programs under `directory` between runs; an empty string turns the cache off."""
    if not directory:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    path = epath.Path(directory).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
