"""File name suffixes: what counts as a recording in a folder, and what can be written.

Apart from `io` so that planning a batch does not wait for numpy.
"""

from __future__ import annotations

WRITABLE = {
    ".wav": "WAV",
    ".wave": "WAV",
    ".w64": "W64",
    ".rf64": "RF64",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".oga": "OGG",
    ".opus": "OPUS",
    ".aiff": "AIFF",
    ".aif": "AIFF",
    ".au": "AU",
    ".caf": "CAF",
}
"""Suffix -> container that it asks for."""

READABLE = frozenset([*WRITABLE, ".mp3", ".m4a", ".aac", ".wma"])
"""Suffixes of what is taken from a folder. A file named by hand is always tried."""

LINEAR = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
"""Sample formats without loss, by rising precision."""

SUBTYPES = (*LINEAR, "VORBIS", "OPUS")
"""Sample formats that can be written."""
