import io
import os
import pickle
import resource
import shutil
import stat
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from dynse.audio import foreign, wav, writing
from dynse.audio.errors import (
    AudioError,
    ClippedError,
    DynseError,
    ExistsError,
    NonFiniteError,
    UnreadableError,
    UnsupportedError,
    UnwritableError,
)
from dynse.audio.io import (
    RawFormat,
    container_of,
    open_reader,
    open_writer,
    output_subtype,
    remove_stale_parts,
)

LINEAR = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def noise(n=3000, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels))


def read(source, n=1000, raw=None):
    with open_reader(source, raw) as reader:
        blocks = list(reader.blocks(n))
    assert all(0 < len(block) <= n for block in blocks)
    if not blocks:
        return np.zeros((0, reader.channels), np.float32), reader
    return np.concatenate(blocks), reader


def codes(holder):
    return [warning.code for warning in holder.warnings]


def wav_bytes(x, subtype="PCM_16", rate=16000, **options):
    out = io.BytesIO()
    with open_writer(out, rate, x.shape[1], subtype, **options) as writer:
        writer.write(x)
    return out.getvalue()


def wav_file(path, x, subtype="PCM_16", rate=16000, **options):
    with open_writer(path, rate, x.shape[1], subtype, overwrite=True, **options) as writer:
        writer.write(x)
    return path


def header(data_size, riff_size=36, tag=1, channels=1, rate=16000, bits=16):
    align = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits)
    return (
        struct.pack("<4sI8sI", b"RIFF", riff_size, b"WAVEfmt ", 16)
        + fmt
        + struct.pack("<4sI", b"data", data_size)
    )


# --------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("subtype", LINEAR)
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("suffix", ["wav", "rf64", "w64"])
def test_linear_formats_agree_with_libsndfile_and_come_back_to_the_bit(
    tmp_path, subtype, channels, suffix
):
    path = tmp_path / f"a.{suffix}"
    wav_file(path, noise(501, channels), subtype)
    assert sf.info(path).subtype == subtype
    x, reader = read(path)
    assert (reader.sample_rate, reader.channels, reader.frames) == (16000, channels, 501)
    assert reader.subtype == subtype
    assert reader.warnings == []
    assert x.dtype == (np.float64 if subtype in ("PCM_32", "DOUBLE") else np.float32)
    np.testing.assert_array_equal(x, sf.read(path, dtype=x.dtype.name, always_2d=True)[0])
    again = wav_file(tmp_path / f"b.{suffix}", x, subtype)
    np.testing.assert_array_equal(read(again)[0], x)
    if suffix != "w64":
        assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("subtype", "kind"), [("PCM_16", "int16"), ("PCM_24", "int32")])
@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "caf", "au"])
def test_every_integer_survives(tmp_path, subtype, kind, suffix):
    step = 1 if subtype == "PCM_16" else 257
    bits = 16 if subtype == "PCM_16" else 24
    q = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), step)[:, None]
    q = (q << (8 if bits == 24 else 0)).astype(kind)
    sf.write(tmp_path / f"a.{suffix}", q, 48000, subtype=subtype)
    x, _ = read(tmp_path / f"a.{suffix}", 10000)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (-1, q.max() / -float(q.min()))
    wav_file(tmp_path / f"b.{suffix}", x, subtype, 48000)
    np.testing.assert_array_equal(sf.read(tmp_path / f"b.{suffix}", dtype=kind)[0], q[:, 0])


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_companded(tmp_path, subtype):
    path = tmp_path / "a.wav"
    sf.write(path, noise(), 8000, subtype=subtype)
    x, reader = read(path)
    np.testing.assert_array_equal(x, sf.read(path, dtype="float32")[0])
    written, warning = output_subtype(reader, "WAV")
    assert written == "PCM_16"
    assert subtype in warning.message
    np.testing.assert_array_equal(read(wav_file(tmp_path / "b.wav", x))[0], x)


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3"])
def test_lossy_files_are_read_whole(tmp_path, suffix, capfd):
    path, t = tmp_path / f"a.{suffix}", np.arange(48000) / 48000
    x = 0.5 * np.sin(2 * np.pi * 440 * t)[:, None]
    if suffix == "mp3":
        sf.write(path, x, 48000)
    else:
        wav_file(path, x, rate=48000)
    y, reader = read(path, 777)
    assert y.shape == x.shape
    np.testing.assert_allclose(y[5000:-5000], x[5000:-5000], atol=0.05)
    np.testing.assert_array_equal(read(path, 48000)[0], y)
    assert output_subtype(reader, "WAV") == ("PCM_16", None)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 96000, 192000, 384000])
def test_rates(tmp_path, rate):
    for suffix in ["wav", "flac"]:
        x, reader = read(wav_file(tmp_path / f"a.{suffix}", noise(100), rate=rate))
        assert (reader.sample_rate, len(x)) == (rate, 100)


@pytest.mark.parametrize("n", [0, 1, 100])
@pytest.mark.parametrize("suffix", ["wav", "w64", "ogg", "aiff"])
def test_short_files(tmp_path, n, suffix):
    x, reader = read(wav_file(tmp_path / f"a.{suffix}", noise(n)))
    assert x.shape == (n, 2)
    assert reader.frames == reader.frames_read == n


def test_names_that_look_like_something_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ["-n.wav", "a b/é: 1.flac", "x" * 250 + ".wav", "--help.ogg"]:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        x, _ = read(wav_file(name, noise(100)))
        assert len(x) == 100
    sf.write("a.flac", noise(100), 16000)
    os.rename("a.flac", "headerless.raw")
    assert read("headerless.raw")[1].container == "FLAC"


# --------------------------------------------------------------------------------------- streams


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*LINEAR, "ULAW"]), st.integers(0, 400), st.integers(1, 50), st.integers(1, 99)
)
def test_a_pipe_cut_anywhere_gives_the_same_samples(subtype, n, block, piece):
    class Pipe(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(min(size, piece))

        def seek(self, *_):
            raise OSError("a pipe")

    x = noise(n)
    if subtype == "ULAW":
        out = io.BytesIO()
        sf.write(out, x, 16000, subtype=subtype, format="WAV")
        data = out.getvalue()
    else:
        data = wav_bytes(x, subtype)
    whole, _ = read(io.BytesIO(data), 1000)
    cut, reader = read(Pipe(data), block)
    np.testing.assert_array_equal(cut, whole)
    assert len(cut) == n
    assert reader.warnings == []


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("as_file", [False, True])
def test_unknown_length(tmp_path, size, as_file):
    data = header(size) + np.arange(500, dtype="<i2").tobytes()
    (tmp_path / "a.wav").write_bytes(data)
    x, reader = read(tmp_path / "a.wav" if as_file else io.BytesIO(data))
    np.testing.assert_array_equal(x[:, 0] * 32768, np.arange(500))
    assert reader.frames == (500 if as_file else None)
    assert reader.warnings == []


@pytest.mark.parametrize("name", [b"LIST", b"cue ", b"smpl", b"PEAK", b"ID3 "])
def test_zero_frames_with_chunks_behind(name):
    data = header(0) + name + struct.pack("<I", 4) + b"INFO"
    assert len(read(io.BytesIO(data))[0]) == 0


def test_chunks_before_and_after_the_data(tmp_path):
    data = header(6) + b"\1\0\2\0\3\0" + b"LIST\4\0\0\0INFO"
    data = data[:12] + b"bext\5\0\0\0hello\0" + data[12:]
    (tmp_path / "a.wav").write_bytes(data)
    for source in [tmp_path / "a.wav", io.BytesIO(data)]:
        x, reader = read(source)
        np.testing.assert_array_equal(x[:, 0] * 32768, [1, 2, 3])
        assert reader.warnings == []


def test_first_samples_leave_before_the_last_arrive():
    source, sink = os.pipe()
    with os.fdopen(source, "rb") as pipe, os.fdopen(sink, "wb", buffering=0) as feed:
        feed.write(header(0xFFFFFFFF) + bytes(200))
        blocks = open_reader(pipe).blocks(10**6)
        assert len(next(blocks)) == 100
        feed.write(bytes(100))
        assert len(next(blocks)) == 50


def test_stdin_stdout_and_named_pipes(tmp_path):
    code = (
        "from dynse.audio.io import *\n"
        "with open_reader('-') as r, open_writer('-', r.sample_rate, r.channels, r.subtype) as w:\n"
        "    for block in r.blocks(100): w.write(block)\n"
    )
    data = wav_bytes(noise(1000), "PCM_24")
    assert struct.unpack_from("<I", data, 4) == (0xFFFFFFFF,)
    run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert run.stdout == data
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    thread.start()
    x, _ = read(tmp_path / "pipe")
    thread.join()
    np.testing.assert_array_equal(x, read(io.BytesIO(data))[0])


@pytest.mark.parametrize(("subtype", "code"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_raw(tmp_path, subtype, code):
    values = np.arange(-100, 100).reshape(-1, 2).astype(code)
    data = values.tobytes() + b"\0"
    (tmp_path / "a.raw").write_bytes(data)
    for source in [tmp_path / "a.raw", io.BytesIO(data)]:
        x, reader = read(source, 7, RawFormat(subtype, 8000, 2))
        np.testing.assert_array_equal(x * (32768 if subtype == "s16le" else 1), values)
        assert (reader.sample_rate, reader.channels) == (8000, 2)
        assert codes(reader) == ["odd_bytes"]


def test_devices_are_written_not_replaced():
    with open_writer("/dev/null", 16000, 2) as writer:
        writer.write(noise())
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(UnsupportedError, match="a stream takes WAV, not FLAC"):
        open_writer("-", 16000, 1, container="flac")


# --------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("lost", [1, 2, 1001, 5000])
def test_truncated_wav(tmp_path, lost):
    data = wav_file(tmp_path / "a.wav", noise()).read_bytes()[:-lost]
    whole, _ = read(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(data)
    for source in [tmp_path / "a.wav", io.BytesIO(data)]:
        x, reader = read(source)
        np.testing.assert_array_equal(x, whole[: len(x)])
        assert len(x) == len(whole) - -(-lost // 4)
        assert codes(reader) == ["truncated"] + ["odd_bytes"] * (lost % 4 > 0)


@pytest.mark.parametrize("size", [10, 3000, 123456])
def test_wrong_chunk_size(tmp_path, size):
    values = np.random.default_rng(0).integers(-3000, -1000, 2000).astype("<i2")
    (tmp_path / "a.wav").write_bytes(header(size) + values.tobytes())
    x, reader = read(tmp_path / "a.wav")
    np.testing.assert_array_equal(x[:, 0] * 32768, values)
    assert codes(reader) == ["truncated" if size > 4000 else "wrong_size"]


def test_truncated_flac(tmp_path):
    path = wav_file(tmp_path / "a.flac", noise(50000))
    whole, _ = read(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    x, reader = read(path, 50000)
    assert 10000 < len(x) < 40000
    np.testing.assert_array_equal(x, whole[: len(x)])
    assert codes(reader) == ["truncated"]
    np.testing.assert_array_equal(read(path, 333)[0], x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_non_finite_samples_become_zero(tmp_path, bad, subtype):
    x = noise().astype(np.float32)
    x[7, 1] = x[2500, 0] = bad
    sf.write(tmp_path / "a.wav", x, 16000, subtype=subtype)
    y, reader = read(tmp_path / "a.wav")
    np.testing.assert_array_equal(y, np.where(np.isfinite(x), x, 0))
    assert reader.non_finite == 2
    assert codes(reader) == ["non_finite"]
    with pytest.raises(NonFiniteError), open_writer(tmp_path / "b.wav", 16000, 2) as writer:
        writer.write(x)
    assert os.listdir(tmp_path) == ["a.wav"]


def fails(error, match, source, raw=None):
    with pytest.raises(error, match=match) as caught:
        read(source, raw=raw)
    text = str(caught.value)
    assert "\n" not in text
    assert isinstance(caught.value, DynseError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (error, text)


def test_sources_that_cannot_be_read(tmp_path):
    os.symlink("nowhere", tmp_path / "link.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "header.wav").write_bytes(header(10)[:20])
    (tmp_path / "chunk.wav").write_bytes(header(10)[:12] + b"bext\xff\0\0\0abc")
    (tmp_path / "nodata.wav").write_bytes(header(10)[:36])
    (tmp_path / "loud.wav").write_bytes(header(4, channels=0) + bytes(4))
    fails(UnreadableError, r"no\.wav: there is no such file", tmp_path / "no.wav")
    fails(UnreadableError, "link to nowhere, which does not exist", tmp_path / "link.wav")
    fails(UnreadableError, "a folder", tmp_path)
    fails(UnreadableError, r"empty \(0 bytes\)", tmp_path / "empty.wav")
    fails(UnreadableError, "fmt chunk has 0 bytes", tmp_path / "header.wav")
    fails(UnreadableError, "ends inside the WAV chunk b'bext'", tmp_path / "chunk.wav")
    fails(UnreadableError, "without a data chunk", tmp_path / "nodata.wav")
    fails(UnreadableError, "0 channels", tmp_path / "loud.wav")
    fails(UnreadableError, "cannot be opened", "a\0b.wav")
    fails(UnreadableError, r"two lines\\n\.wav: there is no such file", "two lines\n.wav")
    fails(UnreadableError, "stream: it is empty", io.BytesIO())


def test_formats_that_are_not_taken(tmp_path):
    for rate in [3999, 384001]:
        fails(UnsupportedError, rf"{rate} Hz, allowed are 4000", io.BytesIO(header(0, rate=rate)))
        raw = RawFormat("s16le", rate, 1)
        fails(UnsupportedError, "allowed are 4000", io.BytesIO(b"1234"), raw)
    fails(UnsupportedError, "65 channels", io.BytesIO(header(0, channels=65)))
    fails(UnsupportedError, "not WAV; pipe WAV", io.BytesIO(b"fLaC" + bytes(99)))
    fails(UnsupportedError, "0x0055", io.BytesIO(header(0, tag=0x55)))
    (tmp_path / "a.wav").write_text("only words\n" * 99)
    fails(UnsupportedError, "no sound that can be read|install ffmpeg", tmp_path / "a.wav")


def test_without_ffmpeg_the_text_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign.shutil, "which", lambda _: None)
    (tmp_path / "a.m4a").write_bytes(bytes(1000))
    fails(UnsupportedError, "install ffmpeg", tmp_path / "a.m4a")


@not_root
def test_permission(tmp_path):
    path = wav_file(tmp_path / "a.wav", noise())
    path.chmod(0)
    fails(UnreadableError, "Permission denied", path)
    tmp_path.chmod(0o500)
    with pytest.raises(UnwritableError, match="Permission denied"):
        open_writer(tmp_path / "b.wav", 16000, 1)
    tmp_path.chmod(0o700)


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", *arguments], check=True)


@needs_ffmpeg
def test_ffmpeg_reads_what_libsndfile_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = 0.5 * np.sin(np.arange(44100) / 10)[:, None]
    wav_file("a.wav", x, rate=44100)
    ffmpeg("-i", "a.wav", "-c:a", "alac", "file:-a: b.m4a")
    y, reader = read("-a: b.m4a")
    np.testing.assert_array_equal(y, read("a.wav")[0])
    assert (reader.container, reader.subtype) == ("FFMPEG", "COMPRESSED")
    assert reader.warnings == []
    assert output_subtype(reader, "WAV") == ("PCM_16", None)
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=32x32", "-i", "a.wav", "-c:a", "alac", "v.mov")
    os.rename("v.mov", "video.wav")
    np.testing.assert_array_equal(read("video.wav")[0][:40000], y[:40000])
    with open_reader("video.wav") as reader:  # left early, the process must end
        next(reader.blocks(10))


@needs_ffmpeg
def test_ffmpeg_pipes(tmp_path):
    x = noise(2000, 6)
    path = wav_file(tmp_path / "a.wav", x, "PCM_24")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-c:a"]
    run = [*command, "pcm_s24le", "-f", "wav", "-"]
    data = subprocess.run(run, capture_output=True, check=True).stdout
    y, reader = read(io.BytesIO(data))
    np.testing.assert_array_equal(y, read(path)[0])
    assert reader.frames is None
    run = [*command, "flac", "-f", "flac", "-"]
    (tmp_path / "a.flac").write_bytes(subprocess.run(run, capture_output=True, check=True).stdout)
    y, reader = read(tmp_path / "a.flac")
    assert y.shape == x.shape
    assert reader.frames is None
    assert reader.warnings == []


# --------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_full_scale_saturates_and_is_counted(tmp_path, suffix):
    x = np.array([1.0, -1.0, 1.5, -1.5, 0.99999, 0])
    with open_writer(tmp_path / f"a.{suffix}", 16000, 1) as writer:
        writer.write(x)
    assert writer.clipped == 2
    q = sf.read(tmp_path / f"a.{suffix}", dtype="int16")[0]
    np.testing.assert_array_equal(q, [32767, -32768, 32767, -32768, 32767, 0])
    y, _ = read(wav_file(tmp_path / "b.wav", x[:, None], "FLOAT"))
    np.testing.assert_array_equal(y[:, 0], x.astype(np.float32))


def test_clip_none_refuses_what_integers_cannot_hold(tmp_path):
    x = np.array([[0.5], [1.5]])
    with (
        pytest.raises(ClippedError, match=r"--clip clamp.*--subtype FLOAT"),
        open_writer(tmp_path / "a.wav", 16000, 1, clip="none") as writer,
    ):
        writer.write(x)
    assert os.listdir(tmp_path) == []
    wav_file(tmp_path / "a.wav", x, "FLOAT", clip="none")
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], x)


@pytest.mark.parametrize("suffix", ["wav", "flac", "raw"])
def test_rescaling_is_one_gain_and_said(tmp_path, suffix):
    x = noise()
    x[1234, 1] = -2
    container = "RAW" if suffix == "raw" else None
    with open_writer(
        tmp_path / f"a.{suffix}", 16000, 2, "PCM_16", container, clip="rescale"
    ) as writer:
        for block in np.split(x, 7 * np.arange(1, 50)):
            writer.write(block)
    assert writer.clipped == 0
    (warning,) = writer.warnings
    assert warning.code == "rescaled"
    assert "-6.02 dB" in warning.message
    raw = RawFormat("s16le", 16000, 2) if suffix == "raw" else None
    y, _ = read(tmp_path / f"a.{suffix}", raw=raw)
    np.testing.assert_allclose(y, x / 2, atol=2**-15)
    assert y.min() == -1
    quiet = wav_file(tmp_path / "b.wav", x / 4, clip="rescale")
    np.testing.assert_allclose(read(quiet)[0], x / 4, atol=2**-15)
    assert sorted(os.listdir(tmp_path)) == sorted([f"a.{suffix}", "b.wav"])
    with pytest.raises(UnsupportedError, match="a stream cannot be rescaled"):
        open_writer(io.BytesIO(), 16000, 1, clip="rescale")


def test_raw_output_has_no_header():
    out = io.BytesIO()
    with open_writer(out, 16000, 2, "FLOAT", "RAW") as writer:
        writer.write(noise(10))
    assert out.getvalue() == noise(10).astype("<f4").tobytes()


def test_raw_does_not_take_a_header_for_sound():
    fails(UnsupportedError, "leave --raw out", io.BytesIO(header(0)), RawFormat("s16le", 8000, 1))


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_absurd_samples_become_zero(tmp_path, subtype):
    x = noise(10) * 2.0**30
    x[3, 0] = 1e30
    sf.write(tmp_path / "a.wav", x, 16000, subtype=subtype)
    y, reader = read(tmp_path / "a.wav")
    assert reader.non_finite == 1
    assert y[3, 0] == 0
    assert np.abs(y).max() > 2.0**29


def test_only_what_killed_processes_left_is_removed(tmp_path):
    writer = open_writer(tmp_path / "a.wav", 16000, 2)
    writer.write(noise())
    (tmp_path / ".b.wav.0123abcd.part").write_bytes(b"half")
    (tmp_path / ".c.wav.part").write_bytes(b"somebody else's")
    assert remove_stale_parts(str(tmp_path)) == 1
    assert len(os.listdir(tmp_path)) == 2
    writer.commit()
    assert sorted(os.listdir(tmp_path)) == [".c.wav.part", "a.wav"]
    assert remove_stale_parts(str(tmp_path / "nowhere")) == 0


def interrupted(path):
    with open_writer(path, 16000, 2) as writer:
        writer.write(noise())
        raise KeyboardInterrupt


def test_target_appears_only_when_complete(tmp_path):
    path = tmp_path / "a.wav"
    with open_writer(path, 16000, 2) as writer:
        writer.write(noise())
        (part,) = os.listdir(tmp_path)
        assert part.startswith(".a.wav.")
        assert part.endswith(".part")
    assert os.listdir(tmp_path) == ["a.wav"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    writer.commit()
    with pytest.raises(ValueError, match="closed"):
        writer.write(noise())
    for suffix in ["wav", "flac", "ogg"]:
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / f"b.{suffix}")
    assert os.listdir(tmp_path) == ["a.wav"]


def test_existing_targets(tmp_path):
    path = wav_file(tmp_path / "a.wav", noise())
    before = path.read_bytes()
    with pytest.raises(ExistsError, match="--overwrite"):
        open_writer(path, 16000, 1)
    with pytest.raises(UnwritableError, match="a folder"):
        open_writer(tmp_path, 16000, 1, container="wav", overwrite=True)
    with pytest.raises(UnwritableError, match="there is no folder"):
        open_writer(tmp_path / "no" / "a.wav", 16000, 1)
    writer = open_writer(tmp_path / "b.wav", 16000, 2)
    writer.write(noise())
    (tmp_path / "b.wav").write_bytes(b"somebody was faster")
    with pytest.raises(ExistsError):
        writer.commit()
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav"]
    assert path.read_bytes() == before
    os.symlink("a.wav", tmp_path / "link.wav")
    wav_file(tmp_path / "link.wav", noise(10))
    assert (tmp_path / "link.wav").is_symlink()
    assert len(read(path)[0]) == 10


def fill(writer):
    with writer:
        for _ in range(20):
            writer.write(noise(10000))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "w64"])
def test_full_disk(tmp_path, suffix):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = open_writer(tmp_path / f"a.{suffix}", 16000, 2)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        with pytest.raises(UnwritableError, match="is the disk full") as caught:
            fill(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_closed_pipe_is_left_to_the_caller():
    source, sink = os.pipe()
    os.close(source)
    with os.fdopen(sink, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        open_writer(pipe, 16000, 1).write(noise(10, 1))


def test_long_wav_becomes_rf64(tmp_path, monkeypatch):
    x = noise(3000).astype(np.float32)
    for module in (wav, writing):
        monkeypatch.setattr(module, "MAX_RIFF", 1000)
    path = wav_file(tmp_path / "a.wav", x, "FLOAT")
    assert path.read_bytes()[:4] == b"RF64"
    y, reader = read(path)
    np.testing.assert_array_equal(y, x)
    assert (reader.container, reader.frames) == ("RF64", 3000)
    assert sf.info(path).frames == 3000
    with pytest.raises(UnwritableError, match="announced"):
        wav_file(tmp_path / "b.wav", x, "FLOAT", frames=1)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_announced_length_gives_the_plain_header(tmp_path):
    x = noise(1000)
    data = wav_file(tmp_path / "a.wav", x, frames=1000).read_bytes()
    assert len(data) == 44 + 4000
    assert data[36:44] == b"data" + struct.pack("<I", 4000)
    assert struct.unpack_from("<I", data, 4) == (len(data) - 8,)


def test_odd_data_is_padded(tmp_path):
    data = wav_file(tmp_path / "a.wav", noise(3, 1), "PCM_U8", frames=3).read_bytes()
    assert len(data) == 48
    assert len(read(tmp_path / "a.wav")[0]) == 3


def test_speaker_positions_are_kept(tmp_path):
    path = wav_file(tmp_path / "a.wav", noise(10, 6), channel_mask=0x3F)
    reader = read(path)[1]
    assert reader.channel_mask == 0x3F
    assert read(wav_file(tmp_path / "b.wav", noise(10, 2)))[1].channel_mask is None


@pytest.mark.parametrize(
    ("subtype", "container", "override", "expected", "warns"),
    [
        ("PCM_24", "WAV", None, "PCM_24", False),
        ("FLOAT", "WAV", "pcm_16", "PCM_16", False),
        ("FLOAT", "FLAC", None, "PCM_24", True),
        ("PCM_32", "FLAC", None, "PCM_24", True),
        ("PCM_U8", "FLAC", None, "PCM_16", False),
        ("PCM_16", "OGG", None, "VORBIS", False),
        ("PCM_16", "OGG", "PCM_24", "VORBIS", True),
        ("PCM_16", "OPUS", None, "OPUS", False),
    ],
)
def test_output_subtype(subtype, container, override, expected, warns):
    reader = open_reader(io.BytesIO(wav_bytes(noise(10), subtype)))
    found, warning = output_subtype(reader, container, override)
    assert found == expected
    assert (warning is not None) == warns
    with pytest.raises(UnsupportedError, match="PCM_16"):
        output_subtype(reader, container, "PCM_17")


def test_writer_falls_back_with_a_warning(tmp_path):
    with open_writer(tmp_path / "a.flac", 16000, 2, "FLOAT") as writer:
        writer.write(noise())
    assert writer.subtype == "PCM_24"
    assert codes(writer) == ["subtype"]


def test_containers(tmp_path):
    for name, container in [("a.WAV", "WAV"), ("a.oga", "OGG"), ("a.opus", "OPUS"), ("-", "WAV")]:
        assert container_of(name) == container
    for name in ["a", "a.m4a", "a.mp3"]:
        with pytest.raises(UnsupportedError, match=r"\.flac"):
            container_of(name)
    for suffix, rate, channels, match in [
        ("opus", 44100, 1, r"use \.ogg"),
        ("ogg", 384000, 1, "up to 200000 Hz"),
        ("flac", 16000, 9, "up to 8 channels"),
        ("wav", 3999, 1, r"4000\.\.384000"),
        ("wav", 16000, 65, r"1\.\.64"),
    ]:
        with pytest.raises(UnsupportedError, match=match):
            open_writer(tmp_path / f"a.{suffix}", rate, channels)
    for suffix in ["flac", "opus"]:
        with pytest.raises(UnsupportedError, match="zero frames"):
            wav_file(tmp_path / f"a.{suffix}", noise(0))
    assert os.listdir(tmp_path) == []


def test_errors_have_codes():
    kinds = AudioError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds) == 6
    assert all(kind.__doc__ and kind.__doc__.count("\n") == 0 for kind in kinds)
    assert str(AudioError("two\n lines", "p")) == "p: two lines"
