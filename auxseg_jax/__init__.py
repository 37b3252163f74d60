"""AuxSegNet+ in JAX/Flax: weakly supervised semantic segmentation with auxiliary tasks and dual-affinity learning."""

__version__ = "0.1.0"
