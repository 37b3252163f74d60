"""Compiler options that differ between CPU, GPU and TPU, and the cache of compiled programs.

The other choice that depends on the platform, the lowering of depthwise convolutions, is
`auxseg_jax.models.depthwise.depthwise_conv`.
"""

from collections.abc import Callable

import jax
from etils import epath

# LLVM's level 3 takes twice as long to compile as level 1.
_QUICK_OPTIONS = {"cpu": {"xla_backend_optimization_level": 1}}
_COMPILER_OPTIONS = {
    "cpu": {
        # XLA:CPU lowers convolutions to YNNPACK fusions, whose weight gradients are 2.5 to 7 times
        # slower than they need be.
        "xla_cpu_experimental_ynn_fusion_type": "",
        # The default order of operations favours concurrency. It is no faster here, undoes
        # rematerialisation, and takes a fifth to a third more memory.
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }
}
if jax.__version_info__ < (0, 11):
    # XLA's Triton products cannot be tiled for some shapes of our programs, or abort the process.
    # Without them the paper's train step takes 3% longer on an H200.
    _COMPILER_OPTIONS["gpu"] = {"xla_gpu_enable_triton_gemm": False}


def jit(fun: Callable, platform: str | None = None, *, once: bool = False, **kwargs) -> Callable:
    """Calls `jax.jit` with the compiler options that a platform needs.

    It starts JAX's backend, so call it where functions are built, not at import.

    Args:
      fun: the function to compile.
      platform: "cpu", "gpu" or "tpu". None: the default backend's.
      once: the function is hardly called more than once. Compilation then takes half the time and
        gives slower code.
      **kwargs: arguments of `jax.jit`.
    """
    options = _QUICK_OPTIONS if once else _COMPILER_OPTIONS
    return jax.jit(fun, compiler_options=options.get(platform or jax.default_backend()), **kwargs)


def set_compilation_cache(directory: str) -> None:
    """Keeps compiled programs under `directory` between runs; an empty string turns that off."""
    if not directory:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    path = epath.Path(directory).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
