"""The vocabulary of sound files: containers, subtypes, warnings, and what one can hold of another.

Names are libsndfile's ("PCM_16", "FLOAT", "WAV", ...). Must not import anything that opens files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from .errors import UnsupportedError
from .suffixes import LINEAR, WRITABLE

Samples = NDArray[Any]

MAX_CHANNELS = 64

INTEGERS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Integer subtype -> bits."""

FLOATS = {"FLOAT": "<f4", "DOUBLE": "<f8"}
"""Float subtype -> NumPy's name of it."""

BYTES = {
    **{name: bits // 8 for name, bits in INTEGERS.items()},
    "FLOAT": 4,
    "DOUBLE": 8,
    "ALAW": 1,
    "ULAW": 1,
}
"""Subtype -> bytes a sample."""

RAW: Mapping[str, str] = {"s16le": "PCM_16", "f32le": "FLOAT"}
"""Headerless PCM, as ffmpeg calls it -> subtype."""

LOSSY = ("VORBIS", "OPUS", "COMPRESSED", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")

_ALLOWED: dict[str, tuple[str, ...]] = {
    "WAV": LINEAR,
    "RF64": LINEAR,
    "W64": LINEAR,
    "RAW": LINEAR,
    "AIFF": LINEAR[1:],
    "AU": LINEAR[1:],
    "CAF": LINEAR[1:],
    "FLAC": ("PCM_16", "PCM_24"),
    "OGG": ("VORBIS",),
    "OPUS": ("OPUS",),
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MAX_VORBIS_RATE = 200000  # above, libsndfile 1.2 crashes the process
_MAX_FLAC_CHANNELS = 8


@dataclass(frozen=True)
class Warning_:  # noqa: N801 - `Warning` is Python's own
    """Something a user should know that did not stop the work; `code` is stable."""

    code: str
    message: str


@dataclass(frozen=True)
class RawFormat:
    """What headerless PCM does not say of itself.

    Parameters
    ----------
    subtype : {"s16le", "f32le"}
    sample_rate : int
        Hz.
    channels : int
    """

    subtype: Literal["s16le", "f32le"]
    sample_rate: int
    channels: int


@dataclass
class Info:
    """What a source says of itself."""

    sample_rate: int
    channels: int
    frames: int | None  # None: unknown until the end
    subtype: str
    container: str
    channel_mask: int | None = None
    said: str = ""  # the subtype before somebody else decoded it
    warnings: list[Warning_] = field(default_factory=list)

    def warn(self, code: str, message: str) -> None:
        """Add a warning."""
        self.warnings.append(Warning_(code, message))


@dataclass(frozen=True)
class Spec:
    """What is to be written."""

    sample_rate: int
    channels: int
    subtype: str
    container: str
    channel_mask: int | None = None

    @property
    def align(self) -> int:
        """Bytes a frame, of linear subtypes."""
        return BYTES[self.subtype] * self.channels


class SourceOfBlocks(Protocol):
    """What `Reader` reads from."""

    info: Info

    def read(self, n: int) -> Samples:
        """Next `(1..n, channels)` samples, `(0, channels)` at the end."""

    def close(self) -> None:
        """Let go of what is behind."""


class Sink(Protocol):
    """What `Writer` writes to."""

    def write(self, samples: Samples) -> None:
        """Append encoded samples."""

    def finish(self) -> None:
        """Complete header and data, and close."""

    def abort(self) -> None:
        """Close, whatever the state."""


def container_of(path: str | os.PathLike[str]) -> str:
    """Return the container that a target's suffix asks for; "-" and devices take WAV.

    Raises
    ------
    UnsupportedError
        If the suffix is none of the known ones.
    """
    if path == "-" or is_device(path):
        return "WAV"
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        known = " ".join(WRITABLE)
        raise UnsupportedError(f"{suffix or 'no suffix'} is no format to write; use {known}", path)
    return WRITABLE[suffix]


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether the path exists and is neither file nor folder: /dev/null, a named pipe."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def fit_subtype(wish: str, container: str) -> tuple[str, Warning_ | None]:
    """Nearest subtype that `container` holds, and a warning unless it holds all of `wish`."""
    wish = wish.upper()
    if container not in _ALLOWED:
        raise UnsupportedError(f"{container} cannot be written; known are {', '.join(_ALLOWED)}")
    allowed = _ALLOWED[container]
    if wish in allowed:
        return wish, None
    if wish not in (*LINEAR, "VORBIS", "OPUS"):
        raise UnsupportedError(f"{wish} cannot be written; known are {', '.join(LINEAR)}")
    rank = LINEAR.index(wish) if wish in LINEAR else 1
    enough = [a for a in allowed if a in LINEAR and LINEAR.index(a) >= rank]
    if enough and wish in LINEAR:
        return enough[0], None
    nearest = enough[0] if enough else allowed[-1]
    return nearest, Warning_("subtype", f"{container} does not hold {wish}; {nearest} is written")


def check_container(container: str, rate: int, channels: int) -> None:
    """Refuse rates and channel counts that a container cannot hold.

    Raises
    ------
    UnsupportedError
        With what to use instead.
    """
    if container == "OPUS" and rate not in _OPUS_RATES:
        raise UnsupportedError(
            f"Opus holds {', '.join(map(str, _OPUS_RATES))} Hz, not {rate}; use .ogg or .flac"
        )
    if container == "OGG" and rate > _MAX_VORBIS_RATE:
        raise UnsupportedError(
            f"Vorbis holds up to {_MAX_VORBIS_RATE} Hz, not {rate}; use .flac or .wav"
        )
    if container in ("FLAC", "OPUS") and channels > _MAX_FLAC_CHANNELS:
        raise UnsupportedError(
            f"{container} holds up to {_MAX_FLAC_CHANNELS} channels, not {channels}; use .wav"
        )
