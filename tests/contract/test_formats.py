"""`Inputs and outputs` of the contract, as far as samples go."""

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynse.cli import enhancing

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")

RATES = [4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000, 384000]


def test_any_rate_and_length_come_back(dynse, noise):
    for rate in RATES:
        dynse.write(f"in/{rate}.wav", noise(rate // 4 + 1), rate)
    assert dynse("in", "-o", "out").returncode == 0
    for rate in RATES:
        info = dynse.info(f"out/{rate}.wav")
        assert (info.samplerate, info.frames) == (rate, rate // 4 + 1)
    for rate in [3999, 384001]:
        dynse.write(f"odd/{rate}.wav", rate=rate)
    done = dynse("odd", "-o", "out")
    assert done.returncode == 1
    assert [line for line in done.lines if "allowed are 4000..384000 Hz" in line] == done.lines[:2]


def test_what_lies_above_8_khz_is_handled_openly(here, dynse):
    t = np.arange(48000) / 48000
    dynse.write("in.wav", 0.3 * np.sin(2 * np.pi * 12000 * t), 48000, "FLOAT")
    level = {}
    for band in ["keep", "model", "drop"]:
        assert here("in.wav", "-o", f"{band}.wav", "--band", band) == 0
        level[band] = np.std(dynse.read(f"{band}.wav")[5000:-5000]) / np.std(dynse.read("in.wav"))
    assert level["keep"] == pytest.approx(1, abs=0.01)
    assert level["drop"] < 0.01
    assert level["drop"] < level["model"] < 1


@pytest.mark.parametrize("channels", [1, 2, 6, 64])
def test_channels_are_kept_and_linked(here, dynse, noise, channels):
    x = noise(8000)
    dynse.write("in.wav", np.stack([x * (c + 1) / channels for c in range(channels)], 1), 8000)
    assert here("in.wav", "-o", "out.wav", "--subtype", "FLOAT") == 0
    y = dynse.read("out.wav").reshape(-1, channels)
    assert y.shape == (8000, channels)
    for c in range(channels):
        np.testing.assert_allclose(y[:, c], y[:, -1] * (c + 1) / channels, atol=1e-4)


def test_channel_modes(here, dynse, noise):
    left, right = noise(8000), noise(8000, seed=1) * np.linspace(0, 3, 8000)
    dynse.write("stereo.wav", np.stack([left, right], 1), subtype="FLOAT")
    dynse.write("left.wav", left, subtype="FLOAT")
    assert here("stereo.wav", "-o", "independent.wav", "--channel-mode", "independent") == 0
    assert here("stereo.wav", "-o", "linked.wav") == 0
    assert here("stereo.wav", "-o", "mono.wav", "--channel-mode", "mono") == 0
    assert here("left.wav", "-o", "alone.wav") == 0
    alone = dynse.read("alone.wav")
    np.testing.assert_array_equal(dynse.read("independent.wav")[:, 0], alone)
    assert not np.array_equal(dynse.read("linked.wav")[:, 0], alone)
    assert dynse.info("mono.wav").channels == 1


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_U8"),
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "PCM_32"),
        ("wav", "FLOAT"),
        ("wav", "DOUBLE"),
        ("flac", "PCM_24"),
        ("ogg", "VORBIS"),
        ("w64", "PCM_16"),
        ("rf64", "PCM_24"),
        ("aiff", "PCM_16"),
    ],
)
def test_sample_format_is_kept(here, dynse, suffix, subtype):
    dynse.write(f"in.{suffix}", subtype=subtype)
    assert here(f"in.{suffix}", "-o", f"out.{suffix}") == 0
    a, b = dynse.info(f"in.{suffix}"), dynse.info(f"out.{suffix}")
    assert (b.subtype, b.format, b.frames) == (subtype, a.format, a.frames)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_companded_becomes_pcm_16_and_that_is_said(dynse, subtype):
    dynse.write("in.wav", subtype=subtype, rate=8000)
    done = dynse("in.wav", "-o", "out.wav")
    assert done.returncode == 0
    assert f"{subtype} in, PCM_16 out" in done.lines[0]
    assert dynse.info("out.wav").subtype == "PCM_16"


def test_subtype_overrides_and_the_suffix_names_the_container(here, dynse, capsys):
    dynse.write("in.wav")
    assert here("in.wav", "-o", "out.flac", "--subtype", "pcm_24") == 0
    assert (dynse.info("out.flac").format, dynse.info("out.flac").subtype) == ("FLAC", "PCM_24")
    assert capsys.readouterr().err.count("\n") == 1
    assert here("in.wav", "-o", "f.flac", "--subtype", "FLOAT") == 0
    assert "FLAC does not hold FLOAT; PCM_24 is written" in capsys.readouterr().err


def test_wave_format_extensible_keeps_its_speakers(here, dynse, noise):
    dynse.write("in.wav", noise(800, 6), format="WAVEX")
    data = bytearray((dynse.folder / "in.wav").read_bytes())
    at = data.index(b"fmt ") + 8 + 20
    data[at : at + 4] = struct.pack("<I", 0x3F)
    (dynse.folder / "in.wav").write_bytes(data)
    assert here("in.wav", "-o", "out.wav") == 0
    out = (dynse.folder / "out.wav").read_bytes()
    at = out.index(b"fmt ") + 8 + 20
    assert out[at : at + 4] == struct.pack("<I", 0x3F)


def test_no_silent_gain_an_impulse_stays_where_it_was(here, dynse):
    x = np.zeros(44100)
    x[12345] = 0.9
    dynse.write("in.wav", x, 44100)
    assert here("in.wav", "-o", "out.wav") == 0
    assert np.argmax(np.abs(dynse.read("out.wav"))) == 12345
    assert here("in.wav", "-o", "same.wav", "-a", "0") == 0
    np.testing.assert_array_equal(dynse.read("same.wav"), dynse.read("in.wav"))


def test_attenuation_limit_and_mix(here, dynse, noise):
    dynse.write("in.wav", noise(16000))
    energy = {}
    for name, arguments in {
        "full": [],
        "none": ["-a", "0"],
        "some": ["--atten-lim", "3"],
        "dry": ["--mix", "0"],
        "half": ["--mix", "0.5"],
    }.items():
        assert here("in.wav", "-o", f"{name}.wav", "-q", *arguments) == 0
        energy[name] = np.mean(dynse.read(f"{name}.wav") ** 2)
    x = dynse.read("in.wav")
    np.testing.assert_array_equal(dynse.read("none.wav"), x)
    np.testing.assert_array_equal(dynse.read("dry.wav"), x)
    assert energy["full"] < energy["half"] < energy["dry"]
    assert 0 < 10 * np.log10(energy["none"] / energy["some"]) < 3.1


def test_clipping_is_counted_scaled_or_refused(here, dynse, noise, capsys):
    loud = 12 * noise(8000)
    dynse.write("in.wav", loud, subtype="FLOAT")
    untouched = ["in.wav", "-a", "0", "--subtype", "PCM_16"]
    over = int(np.count_nonzero(np.abs(loud.astype(np.float32)) > 1))
    assert here(*untouched, "-o", "clamp.wav") == 0
    assert f"{over} samples clipped" in capsys.readouterr().err
    np.testing.assert_allclose(dynse.read("clamp.wav"), np.clip(loud, -1, 1), atol=2**-14)
    assert here(*untouched, "-o", "rescale.wav", "--clip", "rescale") == 0
    assert "all scaled by" in capsys.readouterr().err
    y = dynse.read("rescale.wav")
    np.testing.assert_allclose(y, loud / np.abs(loud).max(), atol=2**-14)
    assert here(*untouched, "-o", "none.wav", "--clip", "none") == 1
    assert "none.wav: samples beyond full scale" in capsys.readouterr().err
    assert here("in.wav", "-a", "0", "-o", "float.wav", "--clip", "none") == 0
    np.testing.assert_array_equal(dynse.read("float.wav"), dynse.read("in.wav"))
    assert dynse.files() == ["clamp.wav", "float.wav", "in.wav", "rescale.wav"]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("subtype", "wanted", "dtype", "left"),
    [
        ("PCM_16", "FLOAT", "float32", "FLOAT"),
        ("PCM_24", "FLOAT", "float32", "FLOAT"),
        ("FLOAT", "FLOAT", "float64", "DOUBLE"),
        ("PCM_16", None, "float64", "PCM_16"),
        ("PCM_24", None, "float64", "PCM_24"),
    ],
)
def test_input_is_output_plus_residual_to_the_last_bit(
    here, dynse, noise, subtype, wanted, dtype, left, channels
):
    dynse.write("in.wav", noise(22050, channels), 44100, subtype)
    more = ["--subtype", wanted] if wanted else []
    assert here("in.wav", "-o", "out.wav", "--residual", "left.wav", *more) == 0
    x, y, r = (dynse.read(f"{name}.wav", dtype) for name in ("in", "out", "left"))
    np.testing.assert_array_equal(y + r, x)
    assert np.std(r) > 0
    assert dynse.info("left.wav").subtype == left


@needs_ffmpeg
def test_mp3_and_m4a(dynse, noise):
    dynse.write("a.wav", noise(44100), 44100)
    for name in ["a.mp3", "a.m4a"]:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", "a.wav", name]
        subprocess.run(command, cwd=dynse.folder, check=True)
    done = dynse("a.mp3", "a.m4a", "-o", "out")
    assert done.returncode == 2, "both would become a.wav"
    assert dynse("a.mp3", "-o", "mp3.wav").returncode == 0
    assert dynse("a.m4a", "-o", "m4a.wav").returncode == 0
    for name in ["mp3.wav", "m4a.wav"]:
        assert dynse.info(name).samplerate == 44100
        assert abs(dynse.info(name).frames - 44100) < 4000, "codecs pad"
    done = dynse("a.m4a", "-o", "no.wav", env={"PATH": "", "HOME": str(dynse.folder)})
    assert done.returncode == 1
    assert "install ffmpeg" in done.lines[0]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rate=st.sampled_from([4000, 8000, 11025, 16000, 44100, 48000, 96000, 192000]),
    channels=st.sampled_from([1, 2, 3, 6]),
    subtype=st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]),
    length=st.one_of(st.integers(0, 600), st.integers(0, 20000)),
    block=st.integers(1, 3000),
)
def test_any_rate_channels_subtype_length_and_block(
    engine, monkeypatch, rate, channels, subtype, length, block
):
    with tempfile.TemporaryDirectory() as folder:
        source, whole, cut = (str(Path(folder, f"{name}.wav")) for name in ("in", "whole", "cut"))
        x = 0.3 * np.random.default_rng(length).standard_normal((length, channels))
        soundfile.write(source, x, rate, subtype)
        options = enhancing.Options("tiny")
        enhancing.enhance_file(engine, source, whole, options)
        monkeypatch.setattr(enhancing, "_BLOCK", max(block, 50) * channels)
        enhancing.enhance_file(engine, source, cut, options)
        monkeypatch.undo()
        info = soundfile.info(whole)
        assert (info.frames, info.samplerate, info.channels) == (length, rate, channels)
        assert info.subtype == ("PCM_16" if subtype == "ULAW" else subtype)
        assert Path(whole).read_bytes() == Path(cut).read_bytes()
