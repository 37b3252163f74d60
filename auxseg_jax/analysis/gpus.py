"""NVIDIA GPUs that nobody here holds: what XLA must know of one to compile for it, and its peaks.

The figures are those of NVIDIA's data sheets and of the CUDA programming guide (compute capability,
shared memory and threads of a multiprocessor), 2026-11. Rates are dense, without sparsity.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
      name: as its driver says it.
      capability: (major, minor) compute capability.
      multiprocessors: streaming multiprocessors.
      cuda_cores: of a multiprocessor.
      threads: that a multiprocessor holds at once.
      shared_bytes: shared memory of a multiprocessor.
      cache_bytes: second-level cache.
      clock_ghz: boost clock.
      memory_bytes: its memory.
      memory_rate: bytes/s of memory.
      message_rate: bytes/s sent to other GPUs of the machine: by NVLink, or PCIe if it has none.
      bfloat16: FLOP/s of the tensor cores.
      tensorfloat32: likewise.
      float32: FLOP/s without tensor cores.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    cuda_cores: int
    threads: int
    shared_bytes: int
    cache_bytes: int
    clock_ghz: float
    memory_bytes: int
    memory_rate: float
    message_rate: float
    bfloat16: float
    tensorfloat32: float
    float32: float

    def to_target(self) -> str:
        """Returns the description that XLA compiles for, a GpuTargetConfigProto in text form."""
        major, minor = self.capability
        # Of these generations XLA uses instructions that are not part of later ones.
        accelerated = "feature_extension: ACCELERATED_FEATURES" if major in (9, 10) else ""
        numbers = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 2**10,
            "shared_memory_per_block_optin": self.shared_bytes - 2**10,
            "shared_memory_per_core": self.shared_bytes,
            "threads_per_core_limit": self.threads,
            "core_count": self.multiprocessors,
            "fpus_per_core": self.cuda_cores,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "thread_dim_limit_x": 1024,
            "thread_dim_limit_y": 1024,
            "thread_dim_limit_z": 64,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
            "l2_cache_size": self.cache_bytes,
            "clock_rate_ghz": self.clock_ghz,
            "device_memory_size": self.memory_bytes,
            "memory_bandwidth": int(self.memory_rate),
        }
        lines = [f"  {key}: {value}" for key, value in numbers.items()]
        return "\n".join(
            [
                "gpu_device_info {",
                *lines,
                f"  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}",
                f'  device_vendor: "NVIDIA Corporation" name: "{self.name}"',
                # The versions of CUDA and cuDNN that a current installation brings.
                '  driver_version: "13.0.0" runtime_version: "12.8.0"',
                '  compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"',
                "}",
                'platform_name: "CUDA"',
                "dnn_version_info { major: 9 minor: 10 patch: 0 }",
                f'device_description_str: "{self.name}"',
            ]
        )


_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
# Rows: name; capability, multiprocessors, CUDA cores, threads, shared memory; cache, clock, memory,
# its rate, messages; bfloat16, TF32, float32.
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB",
        *((8, 0), 108, 64, 2048, 164 * _KIB),
        *(40 * _MIB, 1.41, 80 * _GIB, 2.039e12, 300e9),
        *(312e12, 156e12, 19.5e12),
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3",
        *((9, 0), 132, 128, 2048, 228 * _KIB),
        *(50 * _MIB, 1.98, 80 * _GIB, 3.35e12, 450e9),
        *(989e12, 494e12, 67e12),
    ),
    "h200": Gpu(
        "NVIDIA H200 141GB HBM3e",
        *((9, 0), 132, 128, 2048, 228 * _KIB),
        *(50 * _MIB, 1.98, 141 * 10**9, 4.8e12, 450e9),
        *(989e12, 494e12, 67e12),
    ),
    "b200": Gpu(
        "NVIDIA B200",
        *((10, 0), 148, 128, 2048, 228 * _KIB),
        *(126 * _MIB, 1.965, 180 * 10**9, 7.7e12, 900e9),
        *(2250e12, 1125e12, 75e12),
    ),
    "l4": Gpu(
        "NVIDIA L4",
        *((8, 9), 58, 128, 1536, 100 * _KIB),
        *(48 * _MIB, 2.04, 24 * 10**9, 300e9, 32e9),
        *(121e12, 60e12, 30.3e12),
    ),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090",
        *((8, 9), 128, 128, 1536, 100 * _KIB),
        *(72 * _MIB, 2.52, 24 * _GIB, 1008e9, 32e9),
        *(165.2e12, 82.6e12, 82.6e12),
    ),
}
"""{name in --topology: GPU}."""
