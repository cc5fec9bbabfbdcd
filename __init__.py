"""Speech enhancement with dynamic channel pruning, and probes that read the pruning masks.

import dynse

model = dynse.load()
clean = dynse.enhance(model, noisy, sample_rate)

stream = dynse.Stream(model)          # 16 kHz, block by block
out = stream.feed(block)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio.errors import DynseError
    from .models.engine import load
    from .models.stream import Settings, Stream, enhance

__version__ = "0.1.0"
__all__ = ["DynseError", "Settings", "Stream", "__version__", "enhance", "load"]

_PLACES = {
    "DynseError": "audio.errors",
    "load": "models.engine",
    "Settings": "models.stream",
    "Stream": "models.stream",
    "enhance": "models.stream",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `dynse --help` must not wait for numpy.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
