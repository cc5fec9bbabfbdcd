"""Sound in and out as blocks: files, pipes and headerless PCM are the same thing here.

WAV is read and written by code of this module (about RIFF there is more to forgive than
libsndfile does, pipes cannot seek, and integers must come back as they were); the other formats
go through libsndfile, and what that cannot open through the `ffmpeg` binary, if there is one.

Guarantees: memory of a few blocks whatever the length; samples handed on are finite; PCM read and
written in the same subtype is the same to the last bit; a target appears only when complete.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from .errors import (
    AudioError,
    ExistsError,
    NonFiniteError,
    UnreadableError,
    UnsupportedError,
    UnwritableError,
)
from .resampling import MAX_RATE, MIN_RATE
from .suffixes import WRITABLE

__all__ = [
    "MAX_CHANNELS",
    "RawFormat",
    "Reader",
    "Warning_",
    "Writer",
    "container_of",
    "open_reader",
    "open_writer",
    "output_subtype",
]

MAX_CHANNELS = 64

Samples = NDArray[Any]
Source = str | os.PathLike[str] | BinaryIO

_PIECE = 1024  # frames asked of libsndfile at once; what a damaged end can cost
_UNKNOWN = 0xFFFFFFFF
_SOX_UNKNOWN = 0x7FFFF000  # what sox writes to a pipe, rounded down to whole frames
_RIFF = (b"RIFF", b"RF64", b"BW64")
_WAVE_FORMAT_EXTENSIBLE = 0xFFFE
_CODES = {  # (format tag, bytes a sample): subtype
    (1, 1): "PCM_U8",
    (1, 2): "PCM_16",
    (1, 3): "PCM_24",
    (1, 4): "PCM_32",
    (3, 4): "FLOAT",
    (3, 8): "DOUBLE",
    (6, 1): "ALAW",
    (7, 1): "ULAW",
}
_RAW = {"s16le": "PCM_16", "f32le": "FLOAT"}
_BYTES = {subtype: size for (_, size), subtype in _CODES.items()}


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


# ------------------------------------------------------------------------------------- decoding


def _ulaw_table() -> NDArray[np.float32]:
    """ITU-T G.711 mu-law, 14 bits scaled to 16."""
    code = ~np.arange(256) & 0xFF
    size = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return (np.where(code & 0x80, -size, size) / 32768).astype(np.float32)


def _alaw_table() -> NDArray[np.float32]:
    """ITU-T G.711 A-law, 13 bits scaled to 16."""
    code = np.arange(256) ^ 0x55
    step, size = (code & 0x70) >> 4, ((code & 0x0F) << 4) + 8
    size = np.where(step > 0, (size + 0x100) << np.maximum(step - 1, 0), size)
    return (np.where(code & 0x80, size, -size) / 32768).astype(np.float32)


def _pcm24(data: bytes) -> Samples:
    # Into the upper bytes of an int32: the sign comes for free, 24 bits fit float32 exactly.
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2.0**-31)


_DECODE: dict[str, Callable[[bytes], Samples]] = {
    "PCM_U8": lambda d: (np.frombuffer(d, np.uint8).astype(np.float32) - 128) / 128,
    "PCM_16": lambda d: np.frombuffer(d, "<i2").astype(np.float32) / 32768,
    "PCM_24": _pcm24,
    "PCM_32": lambda d: np.frombuffer(d, "<i4").astype(np.float64) / 2**31,
    "FLOAT": lambda d: np.frombuffer(d, "<f4").astype(np.float32),
    "DOUBLE": lambda d: np.frombuffer(d, "<f8").astype(np.float64),
    "ULAW": lambda d: _ulaw_table()[np.frombuffer(d, np.uint8)],
    "ALAW": lambda d: _alaw_table()[np.frombuffer(d, np.uint8)],
}


@dataclass
class _Info:
    sample_rate: int
    channels: int
    frames: int | None  # None: unknown until the end
    subtype: str
    container: str
    channel_mask: int | None = None
    said: str = ""  # the subtype before somebody else decoded it
    warnings: list[Warning_] = field(default_factory=list)

    def warn(self, code: str, message: str) -> None:
        self.warnings.append(Warning_(code, message))


class _Source(Protocol):
    info: _Info

    def read(self, n: int) -> Samples:
        """Next `(1..n, channels)` samples, `(0, channels)` at the end."""

    def close(self) -> None: ...


class _Bytes:
    """A binary stream that can take back what was read too early.

    Of a regular file `size` is known and one may look ahead; of a pipe neither.
    """

    def __init__(self, stream: BinaryIO, live: bool, size: int | None = None) -> None:
        self._stream = stream
        # A pipe must not wait for a whole block while half of one is there.
        self._read: Callable[[int], bytes | None] = (
            getattr(stream, "read1", stream.read) if live else stream.read
        )
        self._back = b""
        self.size = size
        self.position = 0

    def some(self, n: int) -> bytes:
        """At most `n` bytes, at least one unless at the end."""
        if self._back:
            data, self._back = self._back[:n], self._back[n:]
        else:
            data = self._read(n) or b""
        self.position += len(data)
        return data

    def look(self, position: int, n: int) -> bytes:
        """`n` bytes from `position` of a regular file."""
        here = self._stream.tell()
        self._stream.seek(position)
        data = self._stream.read(n)
        self._stream.seek(here)
        return data

    def take(self, n: int) -> bytes:
        """`n` bytes, fewer only at the end."""
        parts, missing = [], n
        while missing and (data := self.some(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def skip(self, n: int) -> bool:
        """Pass over `n` bytes; False if the end came before."""
        while n and (data := self.some(min(n, 1 << 16))):
            n -= len(data)
        return not n

    def put_back(self, data: bytes) -> None:
        self._back = data + self._back
        self.position -= len(data)


class _Pcm:
    """Interleaved samples of one fixed size, `size` bytes of them or up to the end.

    `close` frees what is behind; `verdict`, asked at the end, tells what went wrong there.
    """

    def __init__(
        self,
        data: _Bytes,
        info: _Info,
        size: int | None,
        close: Callable[[], None],
        verdict: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.info = info
        self._data, self._left, self._verdict = data, size, verdict
        self._align = _BYTES[info.subtype] * info.channels
        self._rest = b""
        self._ended = False
        self.close = close

    def read(self, n: int) -> Samples:
        buffer = self._rest
        while len(buffer) < self._align and not self._ended:
            want = n * self._align - len(buffer)
            new = self._data.some(want if self._left is None else min(want, self._left))
            if self._left is not None:
                self._left -= len(new)
            buffer += new
            if not new:
                self._end(len(buffer))
        whole = len(buffer) - len(buffer) % self._align
        self._rest = buffer[whole:]
        return _DECODE[self.info.subtype](buffer[:whole]).reshape(-1, self.info.channels)

    def _end(self, odd: int) -> None:
        self._ended = True
        if self._left:
            missing = -(-(odd + self._left) // self._align)
            self.info.warn("truncated", f"the data ends {missing} frames before the header says")
        if odd:
            self.info.warn("odd_bytes", f"{odd} trailing bytes of an incomplete frame dropped")
        if problem := self._verdict():
            self.info.warn("damaged", problem)


class _ForeignWavError(Exception):
    """RIFF/WAVE holding something else than the codes that `_Pcm` reads."""


def _open_wav(
    data: _Bytes, close: Callable[[], None], verdict: Callable[[], str | None] = lambda: None
) -> _Pcm:
    """Read a WAV header up to the first sample; the RIFF size is wrong too often to look at."""
    head = data.take(12)
    if len(head) < 12 or head[:4] not in _RIFF or head[8:] != b"WAVE":
        raise UnreadableError(f"a WAV header was expected, got {head!r}")
    container = "WAV" if head[:4] == b"RIFF" else "RF64"
    info: _Info | None = None
    size64: int | None = None
    while len(chunk := data.take(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        known = data.take(min(size, 64)) if name in (b"fmt ", b"ds64") else b""
        if name == b"fmt ":
            info = _parse_fmt(known, container)
        elif name == b"ds64" and len(known) >= 16:
            size64 = struct.unpack("<Q", known[8:16])[0]
        if not data.skip(size + size % 2 - len(known)):
            raise UnreadableError(f"it ends inside the WAV chunk {name!r}, before any sample")
    else:
        raise UnreadableError("it is a WAV header without a data chunk, so it holds no samples")
    if info is None:
        raise UnreadableError("its WAV header has no fmt chunk before the data chunk")
    if size == _UNKNOWN and size64 is not None:
        size = size64
    align = _BYTES[info.subtype] * info.channels
    length = _data_size(data, info, size, align)
    info.frames = None if length is None else length // align
    return _Pcm(data, info, length, close, verdict)


def _parse_fmt(fmt: bytes, container: str) -> _Info:
    if len(fmt) < 16:
        raise UnreadableError(f"its WAV fmt chunk has {len(fmt)} bytes, at least 16 are needed")
    tag, channels, rate, _, align, bits = struct.unpack("<HHIIHH", fmt[:16])
    mask = None
    if tag == _WAVE_FORMAT_EXTENSIBLE and len(fmt) >= 26:
        mask, tag = struct.unpack("<IH", fmt[20:26])
    if not channels:
        raise UnreadableError("its WAV header says 0 channels, at least 1 is needed")
    # 20 bits come in 3 bytes, 24 may come in 4: left-justified either way, so the size decides.
    size = align // channels if align and not align % channels else (bits + 7) // 8
    if (tag, size) not in _CODES:
        raise _ForeignWavError(f"WAV code {tag:#06x} with {bits} bits")
    return _Info(rate, channels, None, _CODES[tag, size], container, mask)


def _data_size(data: _Bytes, info: _Info, size: int, align: int) -> int | None:
    """Bytes of samples to read: what the header says, or what is there where it is wrong."""
    left = None if data.size is None else data.size - data.position
    if size == 0:
        # Either no samples, perhaps with other chunks behind, or a size never filled in.
        head = data.take(4)
        data.put_back(head)
        return 0 if head in (b"LIST", b"fact", b"id3 ", b"bext", b"JUNK", b"iXML") else left
    if size == _UNKNOWN or size == _SOX_UNKNOWN // align * align:
        return left
    if left is None or size == left:
        return size
    if size < left and _ends_well(data, size, left):
        return size
    info.warn(
        "truncated" if size > left else "wrong_size",
        f"the header says {size // align} frames, the file holds {left // align}; read those",
    )
    return left


def _ends_well(data: _Bytes, size: int, left: int) -> bool:
    """Whether nothing, padding or another chunk follows `size` bytes of samples."""
    after = data.look(data.position + size, 5)
    chunks = (after[:4], after[1:])  # some writers leave out the byte that makes odd sizes even
    named = any(all(0x20 <= byte < 0x7F for byte in chunk) for chunk in chunks)
    return left - size < 8 or not any(after) or named


# ----------------------------------------------------------------------------------- libsndfile


class _SequentialFile(sf.SoundFile):
    def seekable(self) -> bool:
        # soundfile seeks after each read of a seekable file, to where it is already. That resets
        # the MP3 decoder (audible, with complaints on stderr) and fails on FLAC of unknown length.
        return False


class _Sndfile:
    """What libsndfile opens; raises its error on opening."""

    def __init__(self, file: BinaryIO) -> None:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        # By descriptor, not by name: a name that ends in .raw would be taken for headerless.
        self._sound = sound = _SequentialFile(file.fileno(), closefd=False)
        self._file = file
        frames = sound.frames if sound.frames < 1 << 62 else None
        self.info = _Info(sound.samplerate, sound.channels, frames, sound.subtype, sound.format)
        dtype = "float64" if sound.subtype in ("PCM_32", "DOUBLE") else "float32"
        self._nothing: Samples = np.zeros((0, sound.channels), dtype)
        self._rest = self._nothing
        self._count = 0
        self._ended = False

    def read(self, n: int) -> Samples:
        # Always the same pieces, so that a damaged end does not depend on who asks for how much.
        parts = [self._rest]
        missing = n - len(self._rest)
        while missing > 0 and not self._ended:
            parts.append(self._piece())
            missing -= len(parts[-1])
        samples = np.concatenate(parts)
        self._rest = samples[n:]
        return samples[:n]

    def _piece(self) -> Samples:
        problem = None
        try:
            part: Samples = self._sound.read(_PIECE, dtype=self._nothing.dtype.name, always_2d=True)
        except sf.LibsndfileError as error:
            part, problem = self._nothing, str(error)
        self._count += len(part)
        if not len(part):
            self._ended = True
            # The length of an MP3 is libsndfile's estimate, of the others what the header says.
            short = (self.info.frames or 0) - self._count if self.info.container != "MP3" else 0
            if problem or short > 0:
                self.info.warn(
                    "truncated",
                    f"reading ended after {self._count} frames, {max(short, 0)} before the header"
                    f" says{f' ({problem})' if problem else ''}",
                )
        return part

    def close(self) -> None:
        self._sound.close()
        self._file.close()


# --------------------------------------------------------------------------------------- ffmpeg


def _open_ffmpeg(path: str, why: str) -> _Pcm:
    """Decode through the ffmpeg binary; `why` is what libsndfile said."""
    binary = shutil.which("ffmpeg")
    if binary is None:
        raise UnsupportedError(
            f"libsndfile cannot read it ({why}); WAV, FLAC, OGG, MP3, AIFF, AU, CAF and W64 are"
            " read without help, for anything else install ffmpeg"
        )
    # `file:` keeps names with ':' or a leading '-' what they are; the whitelist keeps playlists
    # from reaching for the network.
    command = [binary, "-nostdin", "-v", "error", "-protocol_whitelist", "file"]
    command += ["-i", f"file:{path}", "-map", "0:a:0", "-f", "wav", "-c:a", "pcm_f32le", "-"]
    # Not a pipe: that nobody empties it could block a talkative ffmpeg.
    log = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
    )
    assert process.stdout is not None
    stdout: Any = process.stdout

    def close() -> None:
        stdout.close()
        process.kill()
        process.wait()
        log.close()

    def verdict() -> str | None:
        if not process.wait():
            return None
        log.seek(0)
        lines = log.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no reason given")
        return f"ffmpeg: {last.replace(f'file:{path}', 'the input')}"

    try:
        source = _open_wav(_Bytes(stdout, live=False), close, verdict)
    except AudioError:
        problem = verdict()
        close()
        raise UnsupportedError(
            f"it is no sound that can be read (libsndfile: {why}; {problem})"
        ) from None
    source.info.said, source.info.container = "COMPRESSED", "FFMPEG"
    return source


# --------------------------------------------------------------------------------------- reading


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
        NaN and Inf samples met so far, given as zero.
    """

    def __init__(self, source: _Source) -> None:
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
            found.append(
                Warning_("non_finite", f"{self.non_finite} NaN or Inf samples were set to zero")
            )
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
            bad = ~np.isfinite(block)
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


def open_reader(source: Source, raw: RawFormat | None = None) -> Reader:
    """Open a file, a pipe or a binary stream for reading.

    Parameters
    ----------
    source : str, path or binary stream
        "-" is stdin. A stream and any path that is not a regular file hold WAV, or `raw`.
    raw : RawFormat, optional
        The source is headerless PCM of this format.

    Raises
    ------
    UnreadableError
        If it is missing, a folder, not permitted, empty or damaged beyond reading.
    UnsupportedError
        If it is not sound of a known format, or its rate or channel count is not allowed.
    """
    path = None if not isinstance(source, str | os.PathLike) or source == "-" else Path(source)
    try:
        opened = _open(path, sys.stdin.buffer if source == "-" else source, raw)  # type: ignore[arg-type]
        try:
            return Reader(opened)
        except AudioError:
            opened.close()
            raise
    except AudioError as error:
        name = path or ("stdin" if source == "-" else "stream")
        raise type(error)(error.reason, name) from error.__cause__


def _open(path: Path | None, stream: BinaryIO, raw: RawFormat | None) -> _Source:
    file = stream if path is None else _open_file(path)
    # A stream that is not ours stays open.
    close = file.close if path is not None else lambda: None
    try:
        regular = path is not None and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        size = os.fstat(file.fileno()).st_size if regular else None
        data = _Bytes(file, live=not regular, size=size)
        if raw is not None:
            if raw.subtype not in _RAW:
                raise UnsupportedError(f"raw {raw.subtype!r}, known are {', '.join(_RAW)}")
            subtype = _RAW[raw.subtype]
            info = _Info(raw.sample_rate, raw.channels, None, subtype, "RAW")
            if size is not None:
                info.frames = size // (_BYTES[subtype] * max(raw.channels, 1))
            return _Pcm(data, info, size, close)
        head = data.take(12)
        data.put_back(head)
        if not head:
            raise UnreadableError("it is empty (0 bytes)")
        try:
            if head[:4] in _RIFF and head[8:] == b"WAVE":
                return _open_wav(data, close)
            why = f"it begins with {head!r}, which is not WAV"
        except _ForeignWavError as error:
            why = f"{error} is not read from pipes"
        if path is None or not regular:
            raise UnsupportedError(
                f"{why}; pipe WAV (ffmpeg -i IN -f wav - | ...) or say what raw PCM it is"
            )
        try:
            return _Sndfile(file)
        except sf.LibsndfileError as error:
            found = _open_ffmpeg(os.fspath(path), error.error_string.strip(" ."))
        close()
        return found
    except BaseException:
        close()
        raise


def _open_file(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        if path.is_symlink():
            target = os.readlink(path)
            raise UnreadableError(f"it is a link to {target}, which does not exist") from None
        raise UnreadableError("there is no such file") from None
    except IsADirectoryError:
        raise UnreadableError("it is a folder, not a file; name the files in it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableError(f"it cannot be opened: {getattr(error, 'strerror', error)}") from None


# --------------------------------------------------------------------------------------- writing

_INTEGERS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_FLOATS = {"FLOAT": "<f4", "DOUBLE": "<f8"}
_LINEAR = (*_INTEGERS, *_FLOATS)  # by rising precision
_LOSSY = ("VORBIS", "OPUS", "COMPRESSED", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
_ALLOWED: dict[str, tuple[str, ...]] = {
    "WAV": _LINEAR,
    "RF64": _LINEAR,
    "W64": _LINEAR,
    "AIFF": _LINEAR[1:],
    "AU": _LINEAR[1:],
    "CAF": _LINEAR[1:],
    "FLAC": ("PCM_16", "PCM_24"),
    "OGG": ("VORBIS",),
    "OPUS": ("OPUS",),
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MAX_VORBIS_RATE = 200000  # above, libsndfile 1.2 crashes the process
_MAX_FLAC_CHANNELS = 8
_MAX_RIFF = 0xFFFFFFFF - 1024  # data bytes that leave room for header and padding


def container_of(path: str | os.PathLike[str]) -> str:
    """Return the container that a target's suffix asks for; "-" and devices take WAV.

    Raises
    ------
    UnsupportedError
        If the suffix is none of the known ones.
    """
    if path == "-" or _is_device(path):
        return "WAV"
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        known = " ".join(WRITABLE)
        raise UnsupportedError(f"{suffix or 'no suffix'} is no format to write; use {known}", path)
    return WRITABLE[suffix]


def _is_device(path: str | os.PathLike[str]) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def output_subtype(
    reader: Reader, container: str, override: str | None = None
) -> tuple[str, Warning_ | None]:
    """Return the subtype to write so that the source's sample format is kept where it can be.

    Parameters
    ----------
    reader : Reader
        The source.
    container : str
        Of the target, as `container_of` gives it.
    override : str, optional
        What the user wants instead.

    Returns
    -------
    The subtype, and a warning where precision or an explicit wish is lost or the coding changes.

    Raises
    ------
    UnsupportedError
        If `override` is no subtype that can be written.
    """
    if override is not None:
        return _fit_subtype(override, container)
    if reader.subtype in _LINEAR or reader.subtype in _LOSSY:
        wish = reader.subtype if reader.subtype in _LINEAR else "PCM_16"
        subtype, warning = _fit_subtype(wish, container)
        # Who names an .ogg knows that it is lossy.
        return subtype, None if subtype in _LOSSY else warning
    subtype, _ = _fit_subtype("PCM_16", container)
    return subtype, Warning_("subtype", f"{reader.subtype} in, {subtype} out")


def _fit_subtype(wish: str, container: str) -> tuple[str, Warning_ | None]:
    """Nearest subtype that `container` holds, and a warning unless it holds all of `wish`."""
    wish = wish.upper()
    if container not in _ALLOWED:
        raise UnsupportedError(f"{container} cannot be written; known are {', '.join(_ALLOWED)}")
    allowed = _ALLOWED[container]
    if wish in allowed:
        return wish, None
    if wish not in (*_LINEAR, "VORBIS", "OPUS"):
        raise UnsupportedError(f"{wish} cannot be written; known are {', '.join(_LINEAR)}")
    rank = _LINEAR.index(wish) if wish in _LINEAR else 1
    enough = [a for a in allowed if a in _LINEAR and _LINEAR.index(a) >= rank]
    if enough and wish in _LINEAR:
        return enough[0], None
    nearest = enough[0] if enough else allowed[-1]
    return nearest, Warning_("subtype", f"{container} does not hold {wish}; {nearest} is written")


class _Sink(Protocol):
    def write(self, samples: Samples) -> None: ...
    def finish(self) -> None:
        """Complete header and data, and close."""

    def abort(self) -> None:
        """Close, whatever the state."""


class _WavSink:
    """RIFF/WAVE into a binary file; RF64 once it is too long, if `reserve` left room for that.

    Where `seekable` is false the sizes stay 0xFFFFFFFF and each block leaves at once. Only a file
    that is our `own` is closed at the end.
    """

    def __init__(
        self,
        file: BinaryIO,
        writer: Writer,
        mask: int | None,
        seekable: bool = False,
        reserve: bool = False,
        own: bool = True,
    ) -> None:
        self._own = own
        self._file, self._seekable = file, seekable
        self._reserve, self._force64 = reserve and seekable, writer.container == "RF64"
        self._format = writer.subtype, writer.sample_rate, writer.channels, mask
        self._align = _BYTES[writer.subtype] * writer.channels
        self._bytes = 0
        self._file.write(self._header())

    def _header(self) -> bytes:
        subtype, rate, channels, mask = self._format
        size = _BYTES[subtype]
        tag = 1 if subtype in _INTEGERS else 3
        head = (channels, rate, rate * self._align, self._align, size * 8)
        if channels > 2 or mask is not None:
            # The tail of KSDATAFORMAT_SUBTYPE_*; its first two bytes are the plain format tag.
            guid = bytes.fromhex("000000001000800000aa00389b71")
            extension = struct.pack("<HHIH", 22, size * 8, mask or 0, tag) + guid
            fmt = struct.pack("<HHIIHH", _WAVE_FORMAT_EXTENSIBLE, *head) + extension
        else:
            fmt = struct.pack("<HHIIHH", tag, *head) + (b"" if tag == 1 else b"\0\0")
        frames = self._bytes // self._align
        chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
        if tag == 3:
            known = min(frames, _UNKNOWN) if self._seekable else _UNKNOWN
            chunks += b"fact" + struct.pack("<II", 4, known)
        room = 36 if self._reserve else 0
        riff = 4 + room + len(chunks) + 8 + self._bytes + self._bytes % 2
        if not self._seekable:
            sizes, first, name = (_UNKNOWN, _UNKNOWN), b"", b"RIFF"
        elif self._reserve and (self._force64 or self._bytes > _MAX_RIFF):
            first = b"ds64" + struct.pack("<IQQQI", 28, riff, self._bytes, frames, 0)
            sizes, name = (_UNKNOWN, _UNKNOWN), b"RF64"
        else:
            first = b"JUNK" + struct.pack("<I28x", 28) if self._reserve else b""
            sizes, name = (riff, self._bytes), b"RIFF"
        riff_size, data_size = (struct.pack("<I", value) for value in sizes)
        return name + riff_size + b"WAVE" + first + chunks + b"data" + data_size

    def write(self, samples: Samples) -> None:
        data = samples.tobytes()
        self._bytes += len(data)
        if self._bytes > _MAX_RIFF and self._seekable and not self._reserve:
            raise OSError(None, "more than 4 GiB came than was announced")
        self._file.write(data)
        if not self._seekable:
            self._file.flush()

    def finish(self) -> None:
        if self._seekable:
            self._file.write(b"\0" * (self._bytes % 2))
            self._file.seek(0)
            self._file.write(self._header())
        self._file.flush()
        if self._own:
            self._file.close()

    def abort(self) -> None:
        if self._own:
            with suppress(OSError):
                self._file.close()


class _SndfileSink:
    def __init__(self, path: str, writer: Writer) -> None:
        self._sound = sf.SoundFile(
            path,
            "w",
            writer.sample_rate,
            writer.channels,
            writer.subtype,
            format="OGG" if writer.container == "OPUS" else writer.container,
        )

    def write(self, samples: Samples) -> None:
        # libvorbis takes its work space from the stack: a whole hour at once overflows it.
        for at in range(0, len(samples), 1 << 14):
            self._sound.write(samples[at : at + (1 << 14)])

    def finish(self) -> None:
        self._sound.close()

    def abort(self) -> None:
        with suppress(sf.SoundFileError):
            self._sound.close()


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
        Frames written so far.
    clipped : int
        Samples beyond full scale so far, saturated where the format has a full scale.
    warnings : list of Warning_
    """

    def __init__(
        self, sample_rate: int, channels: int, subtype: str, container: str, clip: str
    ) -> None:
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise UnsupportedError(
                f"{sample_rate} Hz cannot be written, allowed are {MIN_RATE}..{MAX_RATE} Hz"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise UnsupportedError(f"{channels} channels, allowed are 1..{MAX_CHANNELS}")
        if clip not in ("clamp", "none"):
            raise ValueError(f"clip {clip!r}, known are 'clamp', 'none'")
        self.subtype, warning = _fit_subtype(subtype, container)
        self.warnings = [] if warning is None else [warning]
        self.sample_rate, self.channels, self.container = sample_rate, channels, container
        self.frames = self.clipped = 0
        self._clamp = clip == "clamp"
        self._name = "stdout"
        self._target = self._part = ""  # empty: not a file of ours
        self._overwrite = False
        self._sink: _Sink | None = None
        self._check_container()

    def _check_container(self) -> None:
        rate, channels = self.sample_rate, self.channels
        if self.container == "OPUS" and rate not in _OPUS_RATES:
            raise UnsupportedError(
                f"Opus holds {', '.join(map(str, _OPUS_RATES))} Hz, not {rate}; use .ogg or .flac"
            )
        if self.container == "OGG" and rate > _MAX_VORBIS_RATE:
            raise UnsupportedError(
                f"Vorbis holds up to {_MAX_VORBIS_RATE} Hz, not {rate}; use .flac or .wav"
            )
        if self.container in ("FLAC", "OPUS") and channels > _MAX_FLAC_CHANNELS:
            raise UnsupportedError(
                f"{self.container} holds up to {_MAX_FLAC_CHANNELS} channels, not {channels};"
                " use .wav"
            )

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
        over = np.abs(block) > 1
        if over.any():
            self.clipped += int(np.count_nonzero(over))
        encoded = self._encode(block)
        self._guarded(lambda sink: sink.write(encoded))
        self.frames += len(block)

    def _encode(self, x: Samples) -> Samples:
        if self.subtype in _FLOATS:
            return np.ascontiguousarray(x, _FLOATS[self.subtype])
        if self.subtype not in _INTEGERS:
            return np.clip(x, -1, 1) if self._clamp else x
        bits = _INTEGERS[self.subtype]
        full = 2.0 ** (bits - 1)
        # float32 holds 24 bits; +1.0 has no integer and becomes the largest one.
        wide = x.astype(np.float64 if bits == 32 else np.result_type(x, np.float32))
        q = np.clip(np.rint(wide * full), -full, full - 1).astype(np.int32)
        if self.container not in ("WAV", "RF64"):
            # libsndfile takes int16 and int32 left-justified, and drops the zeros below.
            return q.astype(np.int16) if bits == 16 else q << (32 - bits)
        if bits == 8:
            return (q + 128).astype(np.uint8)
        if bits == 24:
            return q.astype("<i4")[..., None].view(np.uint8)[..., :3]
        return q.astype(f"<i{bits // 8}")

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
            self._guarded(lambda sink: sink.finish())
            if self._part:
                _refuse_existing(self._target, self._name, self._overwrite)
                self._guarded(lambda _: os.replace(self._part, self._target))
            self._sink, self._part = None, ""
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what was written, unless it was committed."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()
        if self._part:
            with suppress(OSError):
                os.unlink(self._part)
            self._part = ""

    def _guarded(self, action: Callable[[_Sink], None]) -> None:
        if self._sink is None:
            raise ValueError("the writer is closed")
        try:
            action(self._sink)
        except BrokenPipeError:
            raise
        except (OSError, sf.SoundFileError, AssertionError) as error:
            # soundfile asserts that all frames were written.
            said = getattr(error, "strerror", None) or str(error) or "not all could be written"
            raise UnwritableError(
                f"writing failed ({said}); is the disk full?", self._name
            ) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


def open_writer(
    target: Source,
    sample_rate: int,
    channels: int,
    subtype: str = "PCM_16",
    container: str | None = None,
    *,
    clip: Literal["clamp", "none"] = "clamp",
    overwrite: bool = False,
    frames: int | None = None,
    channel_mask: int | None = None,
) -> Writer:
    """Open a file, stdout or a binary stream for writing.

    Parameters
    ----------
    target : str, path or binary stream
        "-" is stdout. It, a stream and any existing path that is not a regular file take WAV of
        unknown length, each block flushed.
    sample_rate : int
        Hz.
    channels : int
    subtype : str
        Of the samples; the nearest one that the container holds is taken, with a warning.
    container : str, optional
        By the suffix of the target if not given.
    clip : {"clamp", "none"}
        Integers always saturate and floats are always kept as they are; Vorbis and Opus are
        given samples beyond full scale only with "none".
    overwrite : bool
        Whether the target may exist.
    frames : int, optional
        How many are to come. WAV of unknown length keeps 36 bytes of its header free to become
        RF64 beyond 4 GiB.
    channel_mask : int, optional
        Speaker positions, for WAV.

    Raises
    ------
    UnsupportedError
        If suffix, subtype, rate or channel count cannot be written.
    ExistsError
        If the target exists and `overwrite` is false.
    UnwritableError
        If the file cannot be created.
    """
    path = target if isinstance(target, str | os.PathLike) else None
    if container is None:
        container = "WAV" if path is None else container_of(path)
    name = "stdout" if path == "-" else "stream" if path is None else os.fspath(path)
    try:
        writer = Writer(sample_rate, channels, subtype, container.upper(), clip)
    except UnsupportedError as error:
        raise UnsupportedError(error.reason, name) from None
    writer._name, writer._overwrite = name, overwrite
    stream: Any = sys.stdout.buffer if path == "-" else target if path is None else None
    if stream is not None or (path is not None and _is_device(path)):
        if writer.container != "WAV":
            raise UnsupportedError(f"a stream takes WAV, not {writer.container}", name)
        out = stream
        try:
            if out is None and path is not None:
                out = open(path, "wb")  # noqa: SIM115
            writer._sink = _WavSink(out, writer, channel_mask, own=out is not stream)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UnwritableError(f"it cannot be opened: {error.strerror}", name) from error
        return writer
    # Through a link: what it points to is replaced, not the link.
    writer._target = os.path.realpath(name)
    _refuse_existing(writer._target, name, overwrite)
    try:
        _create(writer, frames, channel_mask)
    except OSError as error:
        writer.discard()
        raise UnwritableError(
            f"it cannot be created: {_why(error, writer._target)}", name
        ) from error
    except sf.SoundFileError as error:
        writer.discard()
        raise UnsupportedError(f"libsndfile cannot write it: {error}", name) from error
    return writer


def _create(writer: Writer, frames: int | None, mask: int | None) -> None:
    folder, base = os.path.split(writer._target)
    # A name may have 255 bytes, this one needs 15 of them.
    stem = os.fsdecode(os.fsencode(base)[:200])
    part = os.path.join(folder, f".{stem}.{secrets.token_hex(4)}.part")
    # Not mkstemp: the file shall get the permissions that the user's umask gives.
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    writer._part = part
    if writer.container in ("WAV", "RF64"):
        file = os.fdopen(handle, "wb")
        size = None if frames is None else frames * writer.channels * _BYTES[writer.subtype]
        reserve = writer.container == "RF64" or size is None or size > _MAX_RIFF
        writer._sink = _WavSink(file, writer, mask, seekable=True, reserve=reserve)
    else:
        os.close(handle)
        writer._sink = _SndfileSink(part, writer)


def _refuse_existing(target: str, name: str, overwrite: bool) -> None:
    if os.path.isdir(target):
        raise UnwritableError("it is a folder; name a file in it", name)
    if os.path.exists(target) and not overwrite:
        raise ExistsError("it exists; choose another name or allow overwriting (--overwrite)", name)
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise UnwritableError("it is write-protected; choose another name", name)


def _why(error: OSError, target: str) -> str:
    folder = os.path.dirname(target)
    if isinstance(error, FileNotFoundError):
        return f"there is no folder {folder}; make it first"
    return error.strerror or str(error)
