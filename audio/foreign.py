"""Sound files by other hands: libsndfile, and the `ffmpeg` binary for what that cannot open."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf

from .errors import AudioError, UnsupportedError
from .formats import Info, Samples, Spec
from .wav import MAGIC, Bytes, PcmSource, open_wav

_PIECE = 1024  # frames asked of libsndfile at once; what a damaged end can cost


class _SequentialFile(sf.SoundFile):
    def seekable(self) -> bool:
        # soundfile seeks after each read of a seekable file, to where it is already. That resets
        # the MP3 decoder (audible, with complaints on stderr) and fails on FLAC of unknown length.
        return False


class SndfileSource:
    """What libsndfile opens; raises its error on opening."""

    def __init__(self, file: BinaryIO) -> None:
        head = os.pread(file.fileno(), 4, 0)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        # What is none of these may be an MP3, whose decoder talks to stderr of damaged ones.
        talks = head not in (b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"riff", *MAGIC)
        self._hush: Callable[[], AbstractContextManager[None]] = _hush if talks else nullcontext
        # By descriptor, not by name: a name that ends in .raw would be taken for headerless.
        with self._hush():
            self._sound = sound = _SequentialFile(file.fileno(), closefd=False)
        self._file = file
        frames = sound.frames if sound.frames < 1 << 62 else None
        self.info = Info(sound.samplerate, sound.channels, frames, sound.subtype, sound.format)
        dtype = "float64" if sound.subtype in ("PCM_32", "DOUBLE") else "float32"
        self._nothing: Samples = np.zeros((0, sound.channels), dtype)
        self._rest = self._nothing
        self._count = 0
        self._ended = False

    def read(self, n: int) -> Samples:
        """Next `(1..n, channels)` samples, `(0, channels)` at the end."""
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
            with self._hush():
                part: Samples = self._sound.read(
                    _PIECE, dtype=self._nothing.dtype.name, always_2d=True
                )
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
        """Close the file."""
        with self._hush():
            self._sound.close()
        self._file.close()


@contextmanager
def _hush() -> Iterator[None]:
    """Let nobody hear what C libraries say on descriptor 2."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def open_ffmpeg(path: str, why: str) -> PcmSource:
    """Decode through the ffmpeg binary; `why` is what libsndfile said.

    Raises
    ------
    UnsupportedError
        If there is no ffmpeg, or it finds no sound either.
    """
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
        source = open_wav(Bytes(stdout, live=False), close, verdict)
    except AudioError:
        problem = verdict()
        close()
        raise UnsupportedError(
            f"it is no sound that can be read (libsndfile: {why}; {problem})"
        ) from None
    source.info.said, source.info.container = "COMPRESSED", "FFMPEG"
    return source


class SndfileSink:
    """What libsndfile writes, into the file behind a descriptor, which stays open."""

    def __init__(self, handle: int, spec: Spec) -> None:
        container = "OGG" if spec.container == "OPUS" else spec.container
        self._sound = sf.SoundFile(
            handle,
            "w",
            spec.sample_rate,
            spec.channels,
            spec.subtype,
            format=container,
            closefd=False,
        )

    def write(self, samples: Samples) -> None:
        """Append samples, as `writing.encode` prepares them."""
        # libvorbis takes its work space from the stack: a whole hour at once overflows it.
        for at in range(0, len(samples), 1 << 14):
            self._sound.write(samples[at : at + (1 << 14)])

    def finish(self) -> None:
        """Complete the file."""
        self._sound.close()

    def abort(self) -> None:
        """Let go, whatever the state."""
        with suppress(sf.SoundFileError):
            self._sound.close()
