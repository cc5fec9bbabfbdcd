"""`Inputs that break other tools and must not break this one`, each by name."""

import os
import resource
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

INSTALLED = os.path.join(os.path.dirname(sys.executable), "dynse")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


@pytest.fixture(scope="module")
def results(checkpoint_path, tmp_path_factory):
    """All bad inputs at once through one command: what it said of each, and what it wrote."""
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    x = 0.1 * rng.standard_normal(8000)

    def write(name, samples, rate=16000, subtype="PCM_16", **options):
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype, **options)
        return folder / f"{name}.wav"

    write("zero_frames", x[:0])
    write("one_sample", x[:1])
    write("less_than_a_window", x[:300])
    write("silence", 0 * x)
    write("full_scale", np.sign(x))
    write("beyond_full_scale", 3 * np.sign(x), subtype="FLOAT")
    write("dc_offset", x + 0.5)
    write("integer_scale", np.rint(x * 32768), subtype="FLOAT")
    bad = x.copy()
    bad[[10, 4000]] = np.nan
    bad[5000] = np.inf
    write("non_finite", bad, subtype="FLOAT")
    write("huge_double", np.where(np.arange(8000) == 7, 1e300, x), subtype="DOUBLE")
    data = write("truncated", x).read_bytes()
    (folder / "truncated.wav").write_bytes(data[:-5001])
    data = bytearray(write("wrong_size", x).read_bytes())
    data[40:44] = struct.pack("<I", 12345678)
    (folder / "wrong_size.wav").write_bytes(data)
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    (folder / "piped.wav").write_bytes(data)
    (folder / "text.wav").write_text("These are words.\n" * 50)
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    (folder / "link.wav").symlink_to("nowhere.wav")
    names = sorted(path.name for path in folder.iterdir() if path.name != "folder.wav")
    command = [INSTALLED, "enhance", *names, "missing.wav", "/proc/self/mem"]
    done = subprocess.run(
        [*command, "-o", "out", "--model", str(checkpoint_path)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "internal error, " not in done.stderr
    return folder, done.stderr.splitlines()


BAD = ["text.wav", "empty.wav", "link.wav", "missing.wav", "/proc/self/mem"]


def test_probe_says_the_same_of_all_bad_inputs(results, checkpoint_path, probes_path, strict_json):
    folder, said = results
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".wav")
    names.remove("folder.wav")
    done = subprocess.run(
        [
            INSTALLED,
            "probe",
            "--model",
            checkpoint_path,
            "--probes",
            probes_path,
            *names,
            *BAD[3:],
            "--jsonl",
            "-j",
            "2",
            "--frames",
        ],
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert sorted(line for line in lines if line.startswith(tuple(BAD))) == sorted(
        line for line in said if line.startswith(tuple(BAD))
    )
    reports = {report["path"]: report for report in map(strict_json, done.stdout.splitlines())}
    assert list(reports) == [*names, *BAD[3:]]
    assert sorted(name for name, r in reports.items() if r["status"] == "error") == sorted(BAD)
    codes = {
        name: {warning["code"] for warning in report["warnings"]}
        for name, report in reports.items()
    }
    for name, code in {
        "zero_frames": "empty", "silence": "silence", "full_scale": "clipped",
        "beyond_full_scale": "clipped", "non_finite": "non_finite", "truncated": "truncated",
        "wrong_size": "truncated", "huge_double": "non_finite",
    }.items():  # fmt: skip
        assert code in codes[f"{name}.wav"], name
    assert not codes["piped.wav"] & {"truncated", "wrong_size"}
    assert reports["one_sample.wav"]["audio"]["frames"] == 1


def enhanced(results, name):
    folder, lines = results
    said = [line for line in lines if line.startswith(f"{name}.wav")]
    assert any("->" in line for line in said), said
    x, _ = soundfile.read(folder / f"{name}.wav")
    y, _ = soundfile.read(folder / "out" / f"{name}.wav")
    assert np.isfinite(y).all()
    return x, y, " ".join(said)


def failed(results, name):
    folder, lines = results
    said = [line for line in lines if line.startswith(name)]
    assert len(said) == 1
    assert not (folder / "out" / os.path.basename(name)).exists()
    return said[0]


@pytest.mark.parametrize("name", ["zero_frames", "one_sample", "less_than_a_window", "dc_offset"])
def test_lengths_and_offsets(results, name):
    x, y, _ = enhanced(results, name)
    assert len(x) == len(y)


def test_silence_stays_silence(results):
    assert not enhanced(results, "silence")[1].any()


def test_peaks_at_full_scale(results):
    assert np.abs(enhanced(results, "full_scale")[1]).max() <= 1


def test_peaks_above_full_scale_stay_in_float(results):
    x, y, said = enhanced(results, "beyond_full_scale")
    assert len(x) == len(y)
    assert "clipped" not in said


def test_float_samples_of_integer_scale(results):
    x, y, _ = enhanced(results, "integer_scale")
    assert np.std(y) > 0.01 * np.std(x)


def test_nan_and_inf_are_zeroed_with_a_warning_and_do_not_spread(results, checkpoint_path):
    _, y, said = enhanced(results, "non_finite")
    assert "3 NaN, Inf or absurd samples were set to zero" in said
    assert len(y) == 8000
    assert y[6000:].any()
    assert "1 NaN, Inf or absurd samples" in enhanced(results, "huge_double")[2]


def test_truncated_data_is_used_and_told(results):
    _, y, said = enhanced(results, "truncated")
    assert len(y) == 8000 - 2501
    assert "warning" in said


def test_wrong_chunk_size_is_told(results):
    _, y, said = enhanced(results, "wrong_size")
    assert len(y) == 8000
    assert "the header says" in said


def test_wav_of_unknown_length_is_whole_without_a_word(results):
    _, y, said = enhanced(results, "piped")
    assert len(y) == 8000
    assert "warning" not in said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("text.wav", "it is no sound that can be read|install ffmpeg"),
        ("empty.wav", "empty"),
        ("link.wav", "link to nowhere.wav, which does not exist"),
        ("missing.wav", "there is no such file"),
        ("/proc/self/mem", "error"),
    ],
)
def test_what_is_no_sound_fails_in_one_line(results, name, why):
    said = failed(results, name)
    assert any(part in said for part in why.split("|"))


def test_all_failures_are_counted(results):
    assert "5 failed" in results[1][-1]
    assert not [name for name in os.listdir(results[0] / "out") if name.endswith(".part")]


def test_folder_passed_as_file(dynse, here, capsys):
    (dynse.folder / "in.wav").mkdir()
    assert here("in.wav", "-o", "out.wav") == 2
    assert "no audio files" in capsys.readouterr().err
    dynse.write("a.wav")
    assert here("a.wav", "-o", "in.wav", "-q") == 0
    assert dynse.files() == ["a.wav", "in.wav/a.wav"]


@needs_ffmpeg
def test_video_named_wav(dynse, noise):
    dynse.write("a.wav", noise(16000))
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1:s=32x32"]
    command += ["-i", "a.wav", "-c:a", "alac", "-c:v", "mpeg4", "v.mp4"]
    subprocess.run(command, cwd=dynse.folder, check=True)
    os.rename(dynse.folder / "v.mp4", dynse.folder / "v.wav")
    assert dynse("v.wav", "-o", "out.wav").returncode == 0
    assert dynse.info("out.wav").frames >= 16000


@needs_ffmpeg
def test_ffmpeg_piped_wav_of_unknown_length(dynse, noise):
    dynse.write("a.flac", noise(16000))
    command = " ".join(f"'{part}'" for part in dynse.command("-", "-o", "out.wav"))
    pipe = f"ffmpeg -nostdin -v error -i a.flac -f wav - | {command}"
    subprocess.run(["bash", "-c", pipe], cwd=dynse.folder, check=True, capture_output=True)
    assert dynse.info("out.wav").frames == 16000


def test_full_disk(dynse, noise):
    dynse.write("in.wav", noise(50000))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    done = dynse("in.wav", "-o", "out.wav", preexec_fn=limit)
    assert done.returncode == 1
    assert "is the disk full?" in done.lines[0]
    assert dynse.files() == ["in.wav"]
    with open("/dev/full", "wb") as full:
        done = dynse("in.wav", "-o", "-", stdout=full)
    assert done.returncode == 1
    assert len(done.lines) == 1
    assert "stdout: writing failed (No space left on device)" in done.text


def test_target_that_cannot_be_made(dynse):
    dynse.write("in.wav")
    (dynse.folder / "file").touch()
    done = dynse("in.wav", "-o", "file/out.wav")
    assert done.returncode == 1
    assert done.lines == ["file/out.wav: it would lie in a file, not in a folder"]
    done = dynse("in.wav", "-o", "/proc/nothing/out.wav")
    assert done.returncode == 1
    assert len(done.lines) == 1


@not_root
def test_read_only_target_and_unreadable_file(dynse):
    dynse.write("in.wav")
    dynse.write("out/in.wav").chmod(0o400)
    done = dynse("in.wav", "-o", "out", "--overwrite")
    assert "write-protected" in done.text
    (dynse.folder / "out").chmod(0o500)
    done = dynse("in.wav", "-o", "out/new.wav")
    (dynse.folder / "out").chmod(0o700)
    assert done.returncode == 1
    assert "Permission denied" in done.text
    (dynse.folder / "in.wav").chmod(0)
    done = dynse("in.wav", "-o", "x.wav")
    assert done.returncode == 1
    assert "Permission denied" in done.text


@pytest.mark.parametrize("do", ["enhance", "probe"])
def test_decoders_do_not_talk_of_damaged_files(dynse, noise, do):
    """Libmpg123 complains on stderr; ours is one line a file."""
    data = bytearray(dynse.write("a.mp3", noise(16000), 16000, "MPEG_LAYER_III").read_bytes())
    data[600:900] = b"\xff" * 300
    (dynse.folder / "a.mp3").write_bytes(data[:-700])
    (dynse.folder / "b.mp3").write_bytes(b"\xff\xfb\x90\x64" + bytes(2000))
    done = dynse("a.mp3", "b.mp3", *(["-o", "out"] if do == "enhance" else ["--csv"]), do=do)
    assert not [line for line in done.lines if not line.startswith(("a.mp3", "b.mp3", "dynse: "))]
    assert "mpg123" not in done.text


def test_a_refused_second_output_leaves_none(here, dynse):
    dynse.write("in.wav")
    dynse.write("left.wav")
    assert here("in.wav", "-o", "out.wav", "--residual", "left.wav") == 1
    assert dynse.files() == ["in.wav", "left.wav"]


def test_damaged_headers(script, tmp_path, dynse):
    """Each byte of a WAV header changed, each cut at 16 bytes, and some of what else
    `benchmarks/fuzz.py` tries, through `enhance` and `probe` by turns."""
    fuzz = script("fuzz.py")
    wrong = []
    cases = list(fuzz["damaged"](700, seed=1))
    plain = [case for case in cases if case[0] == "plain.wav"]
    flipped = {what for _, what, _ in plain if "flipped" in what}
    assert {f"byte {at} flipped" for at in range(44)} <= flipped
    assert {f"cut at {at}" for at in range(0, 800, 16)} <= {what for _, what, _ in plain}
    how = ["--model", str(dynse.model)]
    tried = plain[:110] + cases[len(plain) :: 20]
    for number, (name, what, data) in enumerate(tried):
        do, more = [("enhance", []), ("probe", ["--probes", str(dynse.probes)])][number % 2]
        _, why = fuzz["problem"](tmp_path, name, data, [*how, *more], do)
        wrong += [f"{name}, {what}: {why}"] if why else []
    assert wrong == []
