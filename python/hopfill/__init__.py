"""Hopfill: prefill attention for NVIDIA Hopper, and for CPUs, on arrays of NumPy and PyTorch.

>>> import numpy as np, hopfill
>>> q, k, v = (np.random.rand(1, 512, 8, 128).astype(np.float32) for _ in range(3))
>>> o = hopfill.attention(q, k, v, causal=True)
>>> o.shape
(1, 512, 8, 128)
"""

from ._core import (
    DeviceError,
    Error,
    FileError,
    InternalError,
    InvalidArgumentError,
    Plan,
    UnavailableError,
    UnsupportedError,
    attention,
    info,
    plan,
    quantize,
)

__version__: str = info()["version"]

__all__ = [
    "DeviceError",
    "Error",
    "FileError",
    "InternalError",
    "InvalidArgumentError",
    "Plan",
    "UnavailableError",
    "UnsupportedError",
    "attention",
    "info",
    "plan",
    "quantize",
]
