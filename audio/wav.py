"""RIFF/WAVE, RF64 and headerless PCM, read and written by our own code.

About RIFF there is more to forgive than libsndfile does, pipes cannot seek, and integers must come
back as they were. Guarantee: the same samples from a pipe, however it is cut, as from a file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import UnreadableError
from .formats import BYTES, INTEGERS, Info, Samples, Spec

MAGIC = (b"RIFF", b"RF64", b"BW64")

_UNKNOWN = 0xFFFFFFFF
_SOX_UNKNOWN = 0x7FFFF000  # what sox writes to a pipe, rounded down to whole frames
MAX_RIFF = 0xFFFFFFFF - 1024  # data bytes that leave room for header and padding
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


class Bytes:
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
        """Let `data` come again."""
        self._back = data + self._back
        self.position -= len(data)


class PcmSource:
    """Interleaved samples of one fixed size, `size` bytes of them or up to the end.

    `close` frees what is behind; `verdict`, asked at the end, tells what went wrong there.
    """

    def __init__(
        self,
        data: Bytes,
        info: Info,
        size: int | None,
        close: Callable[[], None],
        verdict: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.info = info
        self._data, self._left, self._verdict = data, size, verdict
        self._align = BYTES[info.subtype] * info.channels
        self._rest = b""
        self._ended = False
        self.close = close

    def read(self, n: int) -> Samples:
        """Next `(1..n, channels)` samples, `(0, channels)` at the end."""
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


class ForeignWavError(Exception):
    """RIFF/WAVE holding something else than the codes that `PcmSource` reads."""


def open_wav(
    data: Bytes, close: Callable[[], None], verdict: Callable[[], str | None] = lambda: None
) -> PcmSource:
    """Read a WAV header up to the first sample; the RIFF size is wrong too often to look at."""
    head = data.take(12)
    if len(head) < 12 or head[:4] not in MAGIC or head[8:] != b"WAVE":
        raise UnreadableError(f"a WAV header was expected, got {head!r}")
    container = "WAV" if head[:4] == b"RIFF" else "RF64"
    info: Info | None = None
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
    align = BYTES[info.subtype] * info.channels
    length = _data_size(data, info, size, align)
    info.frames = None if length is None else length // align
    return PcmSource(data, info, length, close, verdict)


def _parse_fmt(fmt: bytes, container: str) -> Info:
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
        raise ForeignWavError(f"WAV code {tag:#06x} with {bits} bits")
    return Info(rate, channels, None, _CODES[tag, size], container, mask)


_CHUNKS = frozenset(
    (
        *(b"LIST", b"fact", b"bext", b"JUNK", b"iXML", b"axml", b"PEAK", b"cue ", b"smpl"),
        *(b"inst", b"plst", b"id3 ", b"ID3 ", b"_PMX", b"acid", b"cart", b"chna", b"DISP"),
    )
)
"""Names of chunks that writers put behind the samples."""


def _data_size(data: Bytes, info: Info, size: int, align: int) -> int | None:
    """Bytes of samples to read: what the header says, or what is there where it is wrong."""
    left = None if data.size is None else data.size - data.position
    if size == 0:
        # Either no samples, perhaps with other chunks behind, or a size never filled in.
        head = data.take(4)
        data.put_back(head)
        return 0 if head in _CHUNKS else left
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


def _ends_well(data: Bytes, size: int, left: int) -> bool:
    """Whether nothing, padding or another chunk follows `size` bytes of samples."""
    after = data.look(data.position + size, 5)
    chunks = (after[:4], after[1:])  # some writers leave out the byte that makes odd sizes even
    named = any(all(0x20 <= byte < 0x7F for byte in chunk) for chunk in chunks)
    return left - size < 8 or not any(after) or named


class WavSink:
    """RIFF/WAVE into a binary file; RF64 once it is too long, if `reserve` left room for that.

    Where `seekable` is false the sizes stay 0xFFFFFFFF and each block leaves at once. Only a file
    that is our `own` is closed at the end.
    """

    def __init__(
        self,
        file: BinaryIO,
        spec: Spec,
        seekable: bool = False,
        reserve: bool = False,
        own: bool = True,
    ) -> None:
        self._file, self._spec, self._own = file, spec, own
        self._seekable, self._reserve = seekable, reserve and seekable
        self._force64 = spec.container == "RF64"
        self._bytes = 0
        self._file.write(self._header())

    def _fmt(self) -> bytes:
        spec, size = self._spec, BYTES[self._spec.subtype]
        tag = 1 if spec.subtype in INTEGERS else 3
        head = struct.pack("<HI", spec.channels, spec.sample_rate)
        head += struct.pack("<IHH", spec.sample_rate * spec.align, spec.align, size * 8)
        if spec.channels > 2 or spec.channel_mask is not None:
            # The tail of KSDATAFORMAT_SUBTYPE_*; its first two bytes are the plain format tag.
            guid = bytes.fromhex("000000001000800000aa00389b71")
            extension = struct.pack("<HHIH", 22, size * 8, spec.channel_mask or 0, tag) + guid
            return struct.pack("<H", _WAVE_FORMAT_EXTENSIBLE) + head + extension
        return struct.pack("<H", tag) + head + (b"" if tag == 1 else b"\0\0")

    def _header(self) -> bytes:
        fmt, frames = self._fmt(), self._bytes // self._spec.align
        chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
        if self._spec.subtype not in INTEGERS:
            known = min(frames, _UNKNOWN) if self._seekable else _UNKNOWN
            chunks += b"fact" + struct.pack("<II", 4, known)
        room = 36 if self._reserve else 0
        riff = 4 + room + len(chunks) + 8 + self._bytes + self._bytes % 2
        if not self._seekable:
            sizes, first, name = (_UNKNOWN, _UNKNOWN), b"", b"RIFF"
        elif self._reserve and (self._force64 or self._bytes > MAX_RIFF):
            first = b"ds64" + struct.pack("<IQQQI", 28, riff, self._bytes, frames, 0)
            sizes, name = (_UNKNOWN, _UNKNOWN), b"RF64"
        else:
            first = b"JUNK" + struct.pack("<I28x", 28) if self._reserve else b""
            sizes, name = (riff, self._bytes), b"RIFF"
        riff_size, data_size = (struct.pack("<I", value) for value in sizes)
        return name + riff_size + b"WAVE" + first + chunks + b"data" + data_size

    def write(self, samples: Samples) -> None:
        """Append encoded samples."""
        data = samples.tobytes()
        self._bytes += len(data)
        if self._bytes > MAX_RIFF and self._seekable and not self._reserve:
            raise OSError(None, "more than 4 GiB came than was announced")
        self._file.write(data)
        if not self._seekable:
            self._file.flush()

    def finish(self) -> None:
        """Pad the data, put the sizes into the header, close."""
        if self._seekable:
            self._file.write(b"\0" * (self._bytes % 2))
            self._file.seek(0)
            self._file.write(self._header())
        self._file.flush()
        if self._own:
            self._file.close()

    def abort(self) -> None:
        """Close, whatever the state."""
        if self._own:
            with suppress(OSError):
                self._file.close()


class RawSink:
    """Headerless PCM into a binary file, each block at once."""

    def __init__(self, file: BinaryIO, own: bool = True) -> None:
        self._file, self._own = file, own

    def write(self, samples: Samples) -> None:
        """Append encoded samples."""
        self._file.write(samples.tobytes())
        self._file.flush()

    def finish(self) -> None:
        """Close."""
        if self._own:
            self._file.close()

    def abort(self) -> None:
        """Close, whatever the state."""
        if self._own:
            with suppress(OSError):
                self._file.close()
