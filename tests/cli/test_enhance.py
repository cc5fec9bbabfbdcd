import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from dynse.cli.app import _run


def dynse(*arguments, **options):
    """Run the installed command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "dynse", *map(str, arguments)],
        capture_output=True,
        timeout=120,
        **options,
    )


@pytest.fixture
def enhance(checkpoint_path, monkeypatch, tmp_path):
    """In this process, from tmp_path: much faster than a new interpreter each time."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return _run(["enhance", *map(str, arguments), "--model", str(checkpoint_path)])

    return run


@pytest.fixture
def noisy(tmp_path, speechlike):
    path = tmp_path / "noisy.wav"
    soundfile.write(path, speechlike, 16000, subtype="PCM_16")
    return path


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "suffix"),
    [
        (16000, 1, "PCM_16", "wav"),
        (44100, 2, "PCM_24", "flac"),
        (48000, 6, "FLOAT", "wav"),
        (8000, 1, "PCM_U8", "wav"),
        (22050, 2, "VORBIS", "ogg"),
    ],
)
def test_format_and_length_are_kept(enhance, tmp_path, rate, channels, subtype, suffix):
    rng = np.random.default_rng(0)
    x = 0.1 * rng.standard_normal((rate + 77, channels))
    soundfile.write(tmp_path / f"in.{suffix}", x, rate, subtype=subtype)
    assert enhance(f"in.{suffix}", "-o", f"out.{suffix}") == 0
    a, b = (soundfile.info(tmp_path / f"{name}.{suffix}") for name in ("in", "out"))
    assert (b.samplerate, b.channels, b.frames, b.subtype) == (
        rate,
        channels,
        a.frames,
        subtype,
    )


def test_default_name_and_line(enhance, noisy, capsys):
    assert enhance(noisy) == 0
    out = noisy.with_name("noisy_enhanced.wav")
    assert soundfile.info(out).frames == 48000
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "3.00 s in" in line
    assert "real time" in line
    assert "utilisation 0." in line


def test_quiet_says_nothing(enhance, noisy, capsys):
    assert enhance(noisy, "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_existing_output_is_kept_unless_told(enhance, noisy, capsys):
    noisy.with_name("out.wav").write_bytes(b"precious")
    assert enhance(noisy, "-o", "out.wav") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert noisy.with_name("out.wav").read_bytes() == b"precious"
    assert enhance(noisy, "-o", "out.wav", "--overwrite") == 0
    assert soundfile.info(noisy.with_name("out.wav")).frames == 48000


@pytest.mark.parametrize("limit", [("--atten-lim", "0"), ("--mix", "0")])
def test_untouched_is_bit_identical(enhance, noisy, limit):
    assert enhance(noisy, "-o", "out.wav", *limit) == 0
    a, b = (soundfile.read(noisy.with_name(n), dtype="int16")[0] for n in ("noisy.wav", "out.wav"))
    assert np.array_equal(a, b)


def test_residual_is_what_was_removed(enhance, noisy, tmp_path):
    assert enhance(noisy, "-o", "out.wav", "--residual", "left.wav", "--subtype", "FLOAT") == 0
    x, y, r = (soundfile.read(tmp_path / n)[0] for n in ("noisy.wav", "out.wav", "left.wav"))
    np.testing.assert_allclose(y + r, x, atol=1e-7)
    assert np.any(r)
    assert enhance(noisy, "-o", "z.wav", "--residual", "z.wav") == 2
    assert not (tmp_path / "z.wav").exists()


def test_bad_inputs_fail_in_one_line_and_the_rest_is_done(enhance, noisy, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("not audio at all\n" * 20)
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    assert enhance("missing.wav", "text.wav", "link.wav", noisy, "-o", "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["missing.wav", "text.wav", "link.wav"]
    assert lines[-1].startswith("dynse: 4 inputs: 1 enhanced, 3 failed")
    assert os.listdir(tmp_path / "out") == ["noisy.wav"]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("target", ["text.wav/out.wav", "text.wav/deep/out.wav"])
def test_a_file_is_no_folder_to_write_to(enhance, noisy, tmp_path, capsys, target):
    (tmp_path / "text.wav").write_text("x")
    assert enhance(noisy, "-o", target) == 1
    assert capsys.readouterr().err == f"{target}: it would lie in a file, not in a folder\n"


def test_folders_are_mirrored(enhance, tmp_path, speechlike):
    for place in ("in/a.wav", "in/deep/a.wav", "in/notes.txt"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".wav":
            soundfile.write(path, speechlike[:4000], 16000)
        else:
            path.write_text("x")
    assert enhance("in", "-r", "-o", "out") == 0
    found = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert found == ["out/a.wav", "out/deep/a.wav"]


def test_collisions_are_refused_before_any_work(enhance, tmp_path, speechlike, capsys):
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", speechlike[:4000], 16000)
    assert enhance("p", "q", "-o", "out") == 2
    assert "would both become" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    assert enhance("p/a.wav", "-o", "p/a.wav") == 2
    assert enhance("p/a.wav", "-o", "p") == 2, "the output folder is the input's own"


@pytest.mark.parametrize("samples", [0, 1, 100, 511, 513])
def test_very_short_files(enhance, tmp_path, samples):
    soundfile.write(tmp_path / "in.wav", np.full(samples, 0.1), 16000)
    assert enhance("in.wav", "-o", "out.wav") == 0
    assert soundfile.info(tmp_path / "out.wav").frames == samples


def test_pipe_in_pipe_out_is_the_same_as_the_file(noisy, checkpoint_path, tmp_path):
    done = dynse("enhance", noisy, "-o", tmp_path / "out.wav", "--model", checkpoint_path)
    assert done.returncode == 0, done.stderr
    piped = dynse("enhance", "-", "-o", "-", "--model", checkpoint_path, input=noisy.read_bytes())
    assert piped.returncode == 0, piped.stderr
    expected, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert piped.stdout[-expected.nbytes :] == expected.tobytes()


def test_first_samples_leave_before_the_last_arrive(noisy, checkpoint_path):
    command = [sys.executable, "-m", "dynse", "enhance", "-", "-o", "-", "-q"]
    with subprocess.Popen(
        [*command, "--model", str(checkpoint_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write(noisy.read_bytes()[:70_000])
        process.stdin.flush()
        start = time.monotonic()
        first = process.stdout.read(30_000)
        assert len(first) == 30_000
        assert time.monotonic() - start < 60
        process.stdin.close()
        process.stdout.read()
    assert process.returncode == 0


def test_unknown_model_is_one_line(noisy, capsys):
    assert _run(["enhance", str(noisy), "--model", "nope"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "shipped models are" in line


@pytest.mark.parametrize(
    "arguments", [["enhance"], ["enhance", "x.wav", "--mix", "2"], ["nothing"], ["--wrong"]]
)
def test_wrong_usage_is_2(arguments):
    assert _run(arguments) == 2


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['dynse', '--help']\n"
        "import atexit\n"
        "heavy = {'torch', 'numpy', 'scipy', 'librosa', 'sklearn', 'soundfile'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules), file=sys.stderr))\n"
        "from dynse.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "enhance" in done.stdout
    assert done.stderr.strip() == "set()"


def test_version_and_module_agree():
    from dynse import __version__

    assert dynse("--version").stdout.decode().strip() == f"dynse {__version__}"


def test_models_lists_what_is_shipped(capsys):
    from dynse.models.checkpoint import SHIPPED

    assert _run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(SHIPPED)
    assert [row["sha256"] for row in rows] == list(SHIPPED.values())
