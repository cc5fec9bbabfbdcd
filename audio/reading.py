"""The reading side: finding out what a source is, and giving it as finite blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf

from .errors import UnreadableError, UnsupportedError
from .foreign import SndfileSource, open_ffmpeg
from .formats import (
    BYTES,
    MAX_CHANNELS,
    RAW,
    Info,
    RawFormat,
    Samples,
    SourceOfBlocks,
    Warning_,
)
from .resampling import MAX_RATE, MIN_RATE
from .wav import MAGIC, Bytes, ForeignWavError, PcmSource, open_wav

_LIMIT = 2.0**40
"""Far beyond any scale that samples come in; what is above would overflow when squared."""


class Reader:
    """A source of blocks; made by `open_reader`, closed by `close` or at the end of `with`.

    Attributes
    ----------
    sample_rate : int
        Hz, `MIN_RATE` to `MAX_RATE`.
    channels : int
        1 to `MAX_CHANNELS`.
    frames : int or None
        What is to come in all; None where only the end will tell (pipes).
    subtype, container : str
        libsndfile's names ("PCM_16", "FLOAT", ...; "WAV", "FLAC", ...); what ffmpeg decoded is
        "COMPRESSED" in "FFMPEG".
    channel_mask : int or None
        Speaker positions of a WAVE_FORMAT_EXTENSIBLE header.
    frames_read : int
        Frames given so far.
    non_finite : int
        Samples met so far that are NaN, Inf or beyond 240 dB over full scale, given as zero.
    """

    def __init__(self, source: SourceOfBlocks) -> None:
        info = source.info
        if not MIN_RATE <= info.sample_rate <= MAX_RATE:
            raise UnsupportedError(
                f"its sample rate is {info.sample_rate} Hz, allowed are {MIN_RATE}..{MAX_RATE} Hz;"
                " resample it first"
            )
        if not 1 <= info.channels <= MAX_CHANNELS:
            raise UnsupportedError(
                f"it has {info.channels} channels, allowed are 1..{MAX_CHANNELS}; split it first"
            )
        self._source = source
        self.sample_rate = info.sample_rate
        self.channels = info.channels
        self.frames = info.frames
        self.subtype = info.said or info.subtype
        self.container = info.container
        self.channel_mask = info.channel_mask
        self.frames_read = 0
        self.non_finite = 0

    @property
    def warnings(self) -> list[Warning_]:
        """What a user should know, as far as was read."""
        found = list(self._source.info.warnings)
        if self.non_finite:
            message = f"{self.non_finite} NaN, Inf or absurd samples were set to zero"
            found.append(Warning_("non_finite", message))
        return found

    def blocks(self, n: int) -> Iterator[Samples]:
        """Give the samples in blocks of at most `n` frames, as soon as they are there.

        Yields
        ------
        `(1..n, channels)`, finite, full scale at 1: float64 from PCM_32 and DOUBLE, else float32

        Raises
        ------
        UnreadableError
            If the system cannot read on.
        """
        if n < 1:
            raise ValueError(f"blocks of {n} frames, at least 1")
        while True:
            try:
                block = self._source.read(n)
            except OSError as error:
                raise UnreadableError(f"reading failed: {error.strerror or error}") from error
            if not len(block):
                return
            self.frames_read += len(block)
            bad = ~(np.abs(block) <= _LIMIT)  # true of NaN as well
            if bad.any():
                self.non_finite += int(np.count_nonzero(bad))
                block[bad] = 0
            yield block

    def close(self) -> None:
        """Let go of the file or process behind."""
        self._source.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path: Path | None, stream: BinaryIO, raw: RawFormat | None) -> SourceOfBlocks:
    """Find out what a file (`path`) or a stream holds, and open it."""
    file = stream if path is None else _open_file(path)
    # A stream that is not ours stays open.
    close = file.close if path is not None else lambda: None
    try:
        regular = path is not None and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        size = os.fstat(file.fileno()).st_size if regular else None
        data = Bytes(file, live=not regular, size=size)
        head = data.take(12)
        data.put_back(head)
        wave = head[:4] in MAGIC and head[8:] == b"WAVE"
        if raw is not None:
            if wave:
                raise UnsupportedError("it begins with a WAV header; leave --raw out")
            return _raw_source(data, raw, size, close)
        if not head:
            raise UnreadableError("it is empty (0 bytes)")
        try:
            if wave:
                return open_wav(data, close)
            why = f"it begins with {head!r}, which is not WAV"
        except ForeignWavError as error:
            why = f"{error} is not read from pipes"
        if path is None or not regular:
            raise UnsupportedError(
                f"{why}; pipe WAV (ffmpeg -i IN -f wav - | ...) or say what raw PCM it is"
            )
        try:
            return SndfileSource(file)
        except sf.LibsndfileError as error:
            found = open_ffmpeg(os.fspath(path), error.error_string.strip(" ."))
        close()
        return found
    except BaseException:
        close()
        raise


def _raw_source(
    data: Bytes, raw: RawFormat, size: int | None, close: Callable[[], None]
) -> PcmSource:
    if raw.subtype not in RAW:
        raise UnsupportedError(f"raw {raw.subtype!r}, known are {', '.join(RAW)}")
    info = Info(raw.sample_rate, raw.channels, None, RAW[raw.subtype], "RAW")
    if size is not None:
        info.frames = size // (BYTES[info.subtype] * max(raw.channels, 1))
    return PcmSource(data, info, size, close)


def _open_file(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        if path.is_symlink():
            target = os.readlink(path)
            raise UnreadableError(f"it is a link to {target}, which does not exist") from None
        raise UnreadableError("there is no such file") from None
    except IsADirectoryError:
        if not os.access(path, os.R_OK | os.X_OK):
            raise UnreadableError("it is a folder that may not be listed") from None
        raise UnreadableError("it is a folder, not a file; name the files in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableError(f"it cannot be opened: {getattr(error, 'strerror', error)}") from None
