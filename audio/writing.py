"""The writing side: float samples into a format's own, and what does not fit it told openly."""

from __future__ import annotations

import errno
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile as sf

from .errors import (
    AudioError,
    ClippedError,
    NonFiniteError,
    UnsupportedError,
    UnwritableError,
)
from .foreign import SndfileSink
from .formats import (
    BYTES,
    FLOATS,
    INTEGERS,
    MAX_CHANNELS,
    Samples,
    Sink,
    Spec,
    Warning_,
    check_container,
    fit_subtype,
    is_device,
)
from .parts import PartFile
from .resampling import MAX_RATE, MIN_RATE
from .wav import MAX_RIFF, RawSink, WavSink

ClipMode = Literal["clamp", "rescale", "none"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REPLAY = 1 << 16  # samples read back from the spool at once


def quantise(x: Samples, subtype: str) -> Samples:
    """Return the samples as they come back from a file of this subtype, saturated and rounded.

    Of lossy subtypes nobody can say: `x` itself.
    """
    if subtype in FLOATS:
        return x.astype(FLOATS[subtype])
    if subtype not in INTEGERS:
        return x
    full = 2.0 ** (INTEGERS[subtype] - 1)
    return np.clip(np.rint(x.astype(np.float64) * full), -full, full - 1) / full


def _encode(x: Samples, subtype: str, container: str, clamp: bool) -> Samples:
    """Samples as the sink of `container` wants them."""
    if subtype in FLOATS:
        return np.ascontiguousarray(x, FLOATS[subtype])
    if subtype not in INTEGERS:
        return np.clip(x, -1, 1) if clamp else x
    bits = INTEGERS[subtype]
    full = 2.0 ** (bits - 1)
    # float32 holds 24 bits; +1.0 has no integer and becomes the largest one.
    wide = x.astype(np.float64 if bits == 32 else np.result_type(x, np.float32))
    q = np.clip(np.rint(wide * full), -full, full - 1).astype(np.int32)
    if container not in ("WAV", "RF64", "RAW"):
        # libsndfile takes int16 and int32 left-justified, and drops the zeros below.
        return q.astype(np.int16) if bits == 16 else q << (32 - bits)
    if bits == 8:
        return (q + 128).astype(np.uint8)
    if bits == 24:
        return q.astype("<i4")[..., None].view(np.uint8)[..., :3]
    return q.astype(f"<i{bits // 8}")


class _Spool:
    """Samples waiting for their peak, in a file without a name: a kill leaves nothing."""

    def __init__(self, folder: str, spec: Spec) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._channels = spec.channels
        self._dtype = "<f8" if spec.subtype in ("PCM_32", "DOUBLE") else "<f4"
        self.peak = 0.0

    def write(self, x: Samples) -> None:
        self.peak = max(self.peak, float(np.abs(x).max(initial=0)))
        self._file.write(np.ascontiguousarray(x, self._dtype).tobytes())

    def blocks(self) -> Iterator[Samples]:
        self._file.seek(0)
        width = self._channels * np.dtype(self._dtype).itemsize
        while data := self._file.read(max(_REPLAY // self._channels, 1) * width):
            yield np.frombuffer(data, self._dtype).reshape(-1, self._channels)

    def close(self) -> None:
        self._file.close()


class Writer:
    """A target for blocks; made by `open_writer`.

    Leaving `with` commits, an exception discards. Until the commit the samples are in
    `.NAME.<random>.part` beside the target.

    Attributes
    ----------
    sample_rate, channels : int
    subtype, container : str
        What is really written; `warnings` tells where it is not what was asked for.
    frames : int
        Frames taken so far.
    clipped : int
        Samples beyond full scale so far, saturated where the format has a full scale.
    warnings : list of Warning_
    """

    def __init__(self, spec: Spec, clip: ClipMode, name: str) -> None:
        if clip not in ("clamp", "rescale", "none"):
            raise ValueError(f"clip {clip!r}, known are 'clamp', 'rescale', 'none'")
        if not MIN_RATE <= spec.sample_rate <= MAX_RATE:
            raise UnsupportedError(
                f"{spec.sample_rate} Hz cannot be written, allowed are {MIN_RATE}..{MAX_RATE} Hz"
            )
        if not 1 <= spec.channels <= MAX_CHANNELS:
            raise UnsupportedError(f"{spec.channels} channels, allowed are 1..{MAX_CHANNELS}")
        subtype, warning = fit_subtype(spec.subtype, spec.container)
        check_container(spec.container, spec.sample_rate, spec.channels)
        self._spec = Spec(
            spec.sample_rate, spec.channels, subtype, spec.container, spec.channel_mask
        )
        self.warnings = [] if warning is None else [warning]
        self.sample_rate, self.channels = spec.sample_rate, spec.channels
        self.subtype, self.container = subtype, spec.container
        self.frames = self.clipped = 0
        self._clip, self._name = clip, name
        self._part: PartFile | None = None
        self._sink: Sink | None = None
        self._spool: _Spool | None = None

    def write(self, block: Samples) -> None:
        """Append samples.

        Parameters
        ----------
        block : float `(n, channels)`, or `(n,)` for one channel
            Full scale at 1.

        Raises
        ------
        NonFiniteError
            If a sample is NaN or Inf.
        ClippedError
            If a sample does not fit and `clip` is "none".
        UnwritableError
            If the system refuses: a full disk, a limit, a file beyond the announced 4 GiB.
        BrokenPipeError
            If nobody reads the pipe any more.
        """
        if block.ndim == 1:
            block = block[:, None]
        if block.ndim != 2 or block.shape[1] != self.channels:
            raise ValueError(f"block: got shape {block.shape}, want (n, {self.channels})")
        if not np.isfinite(block).all():
            raise NonFiniteError("NaN or Inf was about to be written; nothing is kept", self._name)
        if self._spool is not None:
            spool = self._spool
            self._guarded(lambda _: spool.write(block))
        else:
            self._put(block)
        self.frames += len(block)

    def _put(self, block: Samples) -> None:
        over = int(np.count_nonzero(np.abs(block) > 1))
        self.clipped += over
        if over and self._clip == "none" and self.subtype in INTEGERS:
            raise ClippedError(
                f"samples beyond full scale do not fit {self.subtype}; allow --clip clamp or"
                " rescale, or write --subtype FLOAT",
                self._name,
            )
        encoded = _encode(block, self.subtype, self.container, self._clip == "clamp")
        self._guarded(lambda sink: sink.write(encoded))

    def _replay(self, spool: _Spool) -> None:
        """Write what waited for its peak, at a gain that lets it fit."""
        gain = 1.0
        if spool.peak > 1:
            gain = 1 / spool.peak
            self.warnings.append(
                Warning_("rescaled", f"a peak of {spool.peak:.4g}, all scaled by "
                                     f"{20 * math.log10(gain):.2f} dB")
            )  # fmt: skip
        for block in spool.blocks():
            self._put(np.clip(block * gain, -1, 1).astype(block.dtype) if gain < 1 else block)

    def commit(self) -> None:
        """Complete the file and give it its name; does nothing the second time.

        Raises
        ------
        UnwritableError
            If the system refuses.
        ExistsError
            If the target has come into being meanwhile and may not be overwritten.
        UnsupportedError
            If FLAC or Opus was to hold no samples at all.
        """
        if self._sink is None:
            return
        try:
            if not self.frames and self.container in ("FLAC", "OPUS"):
                raise UnsupportedError(
                    f"{self.container} cannot hold zero frames; use .wav", self._name
                )
            if self._spool is not None:
                self._replay(self._spool)
            self._guarded(lambda sink: sink.finish())
            if self._part is not None:
                part = self._part
                self._guarded(lambda _: part.rename())
            self._sink = None
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what was written, unless it was committed."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._part is not None:
            self._part.discard()
            self._part = None

    def _guarded(self, action: Callable[[Sink], None]) -> None:
        if self._sink is None:
            raise ValueError("the writer is closed")
        with self._explained():
            action(self._sink)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except AudioError as error:
            raise type(error)(error.reason, self._name) from None
        except (OSError, sf.SoundFileError, AssertionError) as error:
            # soundfile asserts that all frames were written.
            said = getattr(error, "strerror", None) or str(error) or "not all could be written"
            # libsndfile does not tell what the system said.
            known = getattr(error, "errno", None) not in (None, *_FULL)
            hint = "" if known else "; is the disk full?"
            raise UnwritableError(f"writing failed ({said}){hint}", self._name) from error

    def to_stream(self, path: str | None, stream: BinaryIO | None) -> None:
        """Write to a stream, or to a device that a path leads to, as samples come.

        Raises
        ------
        UnsupportedError, UnwritableError
            The stream cannot take this, or cannot be opened.
        """
        if self.container not in ("WAV", "RAW"):
            raise UnsupportedError(f"a stream takes WAV, not {self.container}", self._name)
        if self._clip == "rescale":
            raise UnsupportedError(
                "a stream cannot be rescaled, its peak is known only at the end; name a file",
                self._name,
            )
        own = stream is None
        try:
            out: Any = open(path, "wb") if path is not None and own else stream  # noqa: SIM115
        except OSError as error:
            raise UnwritableError(f"it cannot be opened: {error.strerror}", self._name) from error
        raw = self.container == "RAW"
        with self._explained():
            self._sink = RawSink(out, own) if raw else WavSink(out, self._spec, own=own)

    def to_file(self, frames: int | None, overwrite: bool) -> None:
        """Write to the file of this name; `frames` are announced, if that many are known.

        Raises
        ------
        ExistsError, UnsupportedError, UnwritableError
            The file cannot be written.
        """
        try:
            self._part = PartFile(self._name, overwrite)
            self._sink = self._file_sink(self._part.handle, frames)
            if self._clip == "rescale":
                self._spool = _Spool(os.path.dirname(os.path.realpath(self._name)), self._spec)
        except OSError as error:
            self.discard()
            reason = error.strerror or str(error)
            if isinstance(error, FileNotFoundError):
                folder = os.path.dirname(os.path.realpath(self._name))
                reason = f"there is no folder {folder}; make it first"
                if os.path.isdir(folder):  # as /proc, where nothing can be made
                    reason = f"{folder} takes no files"
            raise UnwritableError(f"it cannot be created: {reason}", self._name) from error
        except sf.SoundFileError as error:
            self.discard()
            raise UnsupportedError(f"libsndfile cannot write it: {error}", self._name) from error
        except BaseException:
            self.discard()
            raise

    def _file_sink(self, handle: int, frames: int | None) -> Sink:
        if self.container not in ("WAV", "RF64", "RAW"):
            return SndfileSink(handle, self._spec)
        # A descriptor of its own, so that the part stays locked until it has its name.
        file = os.fdopen(os.dup(handle), "wb")
        if self.container == "RAW":
            return RawSink(file)
        size = None if frames is None else frames * self.channels * BYTES[self.subtype]
        reserve = self.container == "RF64" or size is None or size > MAX_RIFF
        return WavSink(file, self._spec, seekable=True, reserve=reserve)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


def make_writer(
    target: str | os.PathLike[str] | BinaryIO,
    spec: Spec,
    clip: ClipMode,
    overwrite: bool,
    frames: int | None,
) -> Writer:
    """Open what `io.open_writer` describes."""
    if isinstance(target, str | os.PathLike):
        path, stream = os.fspath(target), None
        name = "stdout" if path == "-" else path
        if path == "-":
            stream = sys.stdout.buffer
    else:
        path, stream, name = None, target, "stream"
    try:
        writer = Writer(spec, clip, name)
    except UnsupportedError as error:
        raise UnsupportedError(error.reason, name) from None
    if stream is not None or (path is not None and is_device(path)):
        writer.to_stream(path, stream)
    else:
        writer.to_file(frames, overwrite)
    return writer
