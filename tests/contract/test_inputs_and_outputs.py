"""`Inputs and outputs` of the contract, as far as files, folders and names go."""

import os
import subprocess
import sys

import numpy as np
import pytest


def test_files_folders_and_quoted_globs(dynse):
    for name in ["a.wav", "dir/b.flac", "dir/deep/c.wav", "dir/notes.txt", "x1.wav", "x2.wav"]:
        if name.endswith("txt"):
            (dynse.folder / name).write_text("not sound, and not named")
        else:
            dynse.write(name)
    done = dynse("a.wav", "dir", "x*.wav", "-o", "out")
    assert done.returncode == 0
    assert dynse.files("out") == ["a.wav", "b.flac", "x1.wav", "x2.wav"]
    assert done.stdout == b""
    assert dynse("dir/**/*.wav", "-o", "globbed").returncode == 0
    assert dynse.files("globbed") == ["deep/c.wav"], "mirrored below the fixed part"


def test_a_glob_gives_each_file_once_whatever_links_there_are(here, dynse):
    names = ["a.wav", "deep/b.wav"]
    for name in names:
        dynse.write(f"in/{name}")
    (dynse.folder / "in/a-loop").symlink_to("../in")
    (dynse.folder / "in/loop").symlink_to(".")
    for pattern in ("in/**/*.wav", "in/**"):
        assert here(pattern, "-o", "out", "-q", "--overwrite") == 0
        assert dynse.files("out") == names
    assert here("in/*", "-o", "one", "-q") == 0
    assert dynse.files("one") == names
    assert here(str(dynse.folder / "i*/**/deep/*.wav"), "-o", "absolute", "-q") == 0
    assert dynse.files("absolute") == ["in/deep/b.wav"]
    assert here("**/b.wav", "-o", "relative", "-q") == 0
    assert "in/deep/b.wav" in dynse.files("relative")
    assert here("none/**/*.wav", "-o", "nothing/", "-q") == 1


def test_what_macos_keeps_beside_a_file_is_no_input_of_a_folder(here, dynse):
    dynse.write("in/a.wav")
    (dynse.folder / "in/._a.wav").write_bytes(b"\0\5\x16\7")
    assert here("in", "-o", "out", "-q") == 0
    assert dynse.files("out") == ["a.wav"]
    assert here("in/._a.wav", "-o", "out/", "-q") == 1, "named by hand: tried"


def test_hidden_folders_are_entered_where_they_are_named_only(here, dynse):
    for name in ("a.wav", ".Trash/b.wav", "deep/.git/c.wav", ".Trash/.er/d.wav"):
        dynse.write(f"in/{name}")
    assert here("in", "-r", "-o", "out", "-q") == 0
    assert dynse.files("out") == ["a.wav"]
    assert here("in/.Trash", "-r", "-o", "trash", "-q") == 0
    assert dynse.files("trash") == ["b.wav"]
    assert here(str(dynse.folder / "in/d*/.g*"), "-r", "-o", "git", "-q") == 0
    assert dynse.files("git") == ["deep/.git/c.wav"]
    assert here("in/.Trash/.er/d.wav", "-o", "by hand/", "-q") == 0


def test_a_file_named_twice_is_one_input(here, dynse):
    dynse.write("a.wav")
    assert here("a.wav", "./a.wav", "-o", "x.wav", "-q") == 0
    assert dynse.info("x.wav").frames == 3200


def test_recursive_mirrors_the_tree(dynse):
    names = ["a.wav", "deep/a.wav", "deep/er/b.flac"]
    for name in names:
        dynse.write(f"in/{name}")
    assert dynse("in", "-r", "-o", "out/").returncode == 0
    assert dynse.files("out") == names


def test_a_file_named_by_hand_is_always_tried(dynse):
    os.rename(dynse.write("a.wav"), dynse.folder / "sound.txt")
    assert dynse("sound.txt", "-o", "out.wav").returncode == 0
    assert dynse.info("out.wav").frames == 3200


@pytest.mark.parametrize("separator", [b"\n", b"\0", b"\r\n"])
def test_files_from_stdin_keeps_relative_folders(dynse, separator):
    names = ["p/a.wav", "q/a.wav", "-dash é.wav"]
    for name in names:
        dynse.write(name)
    listed = separator.join(os.fsencode(name) for name in names) + separator
    done = dynse("--files-from", "-", "-o", "out", stdin=listed)
    assert done.returncode == 0, done.text
    assert dynse.files("out") == sorted(names)


def test_files_from_a_list(dynse):
    (dynse.folder / "list").write_text(f"{dynse.write('p/a.wav')}\n\nmissing.wav\n")
    done = dynse("--files-from", "list", "-o", "out")
    assert done.returncode == 1
    assert done.lines[1] == "missing.wav: there is no such file"
    assert dynse.files("out") == ["a.wav"], "of an absolute path only the name"
    assert dynse("--files-from", "no-list", "-o", "out").returncode == 2


def test_one_input_goes_to_one_file_or_into_a_folder(dynse):
    dynse.write("a.wav")
    (dynse.folder / "there").mkdir()
    for output, written in [
        ("x.flac", "x.flac"),
        ("dir/", "dir/a.wav"),
        ("there", "there/a.wav"),
        ("new/deep/y.wav", "new/deep/y.wav"),
    ]:
        assert dynse("a.wav", "-o", output).returncode == 0
        assert dynse.info(written).frames == 3200


def test_without_output_beside_the_input(dynse):
    dynse.write("p/a.wav")
    dynse.write("p/b.flac")
    assert dynse("p/a.wav").returncode == 0
    assert dynse.files("p") == ["a.wav", "a_enhanced.wav", "b.flac"]
    assert dynse("p", "--skip-existing").returncode == 0
    assert dynse.files("p") == ["a.wav", "a_enhanced.wav", "b.flac", "b_enhanced.flac"], (
        "what an earlier run wrote is no input"
    )


def test_output_folder_inside_the_input_folder_is_no_input(here, dynse):
    dynse.write("in/a.wav")
    for _ in range(2):
        assert here("in", "-r", "-o", "in/out", "--overwrite", "-q") == 0
    assert dynse.files("in") == ["a.wav", "out/a.wav"]


@pytest.mark.parametrize(
    "arguments", [["a.wav", "-o", "a.wav"], ["p", "-o", "p"], ["a.wav", "-o", "link.wav"]]
)
def test_an_input_is_never_overwritten(here, dynse, arguments, capsys):
    files = [dynse.write("a.wav"), dynse.write("p/a.wav")]
    (dynse.folder / "link.wav").symlink_to("a.wav")
    before = [path.read_bytes() for path in files]
    assert here(*arguments, "--overwrite") == 2
    assert "never overwritten" in " ".join(capsys.readouterr().err.split())
    assert [path.read_bytes() for path in files] == before


def test_same_stem_in_two_folders_is_refused_before_any_work(dynse):
    for name in ["p/a.wav", "q/a.flac", "q/b.wav"]:
        dynse.write(name)
    os.rename(dynse.folder / "q/a.flac", dynse.folder / "q/a.wav")
    done = dynse("p", "q", "-o", "out")
    assert done.returncode == 2
    assert "would both become" in done.text
    assert not (dynse.folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a.wav", "b.wav", "-o", "out.wav"], "a folder is needed"),
        (["a.wav", "-o", "out.wav/"], "a folder is needed"),
        (["a.wav", "b.wav", "-o", "new.wav"], "several inputs need a folder"),
        (["a.wav", "b.wav", "-o", "-"], "one input"),
        (["a.wav", "-o", "out.mp3"], "no format to write"),
        (["empty"], "no audio files"),
        (["a.wav", "--overwrite", "--skip-existing"], "not with"),
        (["a.wav", "--subtype", "PCM_17"], "none of PCM_U8"),
        (["a.wav", "--rate", "8000"], "--raw is missing"),
        (["-", "--raw", "s16le", "--rate", "8000"], "needed with --raw"),
        (["a.wav", "--clip", "rescale", "-o", "-"], "pipe"),
        (["a.wav", "--clip", "rescale", "--residual", "r.wav"], "not with --residual"),
        (["a.wav", "--residual", "a.wav"], "is the input"),
        (["a.wav", "b.wav", "--residual", "r.wav"], "takes one input"),
        (["a.wav", "--shard", "3/2"], "K/N"),
        (["a.wav", "-a", "101"], "100"),
        (["-", "--files-from", "-"], "both"),
        ([""], "without a name"),
        ([], "name files"),
    ],
)
def test_wrong_usage_is_2_and_touches_nothing(here, dynse, arguments, why, capsys):
    dynse.write("a.wav")
    dynse.write("b.wav")
    dynse.write("out.wav")
    (dynse.folder / "empty").mkdir()
    assert here(*arguments) == 2
    assert why in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert dynse.files() == ["a.wav", "b.wav", "out.wav"]


def test_names_with_spaces_accents_dashes_and_no_text(dynse):
    names = ["a b.wav", "é ü 音.wav", "-n.wav", "--help.wav", "[x].wav", "a'b\"c.wav", "two\nl.wav"]
    for name in names:
        dynse.write(name)
    latin = os.fsdecode(b"latin-\xe9.wav")
    os.rename(dynse.write("z.wav"), dynse.folder / latin)
    done = dynse("-o", "out", "--", *names, latin)
    assert done.returncode == 0, done.text
    assert dynse.files("out") == sorted([*names, latin])
    done = dynse("--dry-run", "-o", "dry/", "--", latin)
    assert done.stdout == b"latin-\xe9.wav -> dry/latin-\xe9.wav\n"


def test_existing_outputs_are_refused_skipped_or_replaced(dynse):
    dynse.write("a.wav")
    dynse.write("b.wav")
    (dynse.folder / "out").mkdir()
    (dynse.folder / "out/a.wav").write_bytes(b"precious")
    done = dynse("a.wav", "b.wav", "-o", "out")
    assert done.returncode == 1
    assert "--overwrite" in done.lines[0]
    assert dynse.info("out/b.wav").frames == 3200
    done = dynse("a.wav", "b.wav", "-o", "out", "--skip-existing")
    assert done.returncode == 0
    assert "2 skipped" in done.text
    assert (dynse.folder / "out/a.wav").read_bytes() == b"precious"
    assert dynse("a.wav", "b.wav", "-o", "out", "--overwrite", "-q").returncode == 0
    assert dynse.info("out/a.wav").frames == 3200


def test_dry_run_prints_the_map_and_does_nothing(dynse):
    dynse.write("a.wav")
    dynse.write("b.wav")
    dynse.write("out/b.wav")
    done = dynse("a.wav", "b.wav", "-o", "out", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        "a.wav -> out/a.wav",
        "b.wav -> out/b.wav (exists, would be refused)",
    ]
    assert done.text == ""
    assert dynse.files("out") == ["b.wav"]


def test_stdin_is_never_touched_unless_named(dynse):
    for name in "abc":
        dynse.write(f"{name}.wav")
    loop = 'while read -r f; do "$0" -m dynse enhance "$f" --model "$1" -q || exit 1; done'
    done = subprocess.run(
        ["bash", "-c", loop, sys.executable, dynse.model],
        input=b"a.wav\nb.wav\nc.wav\n",
        cwd=dynse.folder,
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert done.stderr == b""
    assert len(dynse.files()) == 6


def test_help_of_the_command_and_python_m(dynse):
    done = subprocess.run(
        [sys.executable, "-m", "dynse", "enhance", "--help"],
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "120"},
    )
    for option in ["--files-from", "--shard", "--residual", "--clip", "--raw", "--fail-fast"]:
        assert option in done.stdout.decode()
    installed = os.path.join(os.path.dirname(sys.executable), "dynse")
    outputs = [
        subprocess.run([*run, "--version"], capture_output=True, check=True, timeout=60).stdout
        for run in ([sys.executable, "-m", "dynse"], [installed])
    ]
    assert outputs[0] == outputs[1]


def test_enhance_imports_nothing_of_training(dynse):
    dynse.write("a.wav")
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'scipy', 'librosa', 'sklearn', 'pyworld', 'matplotlib', 'pesq'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "from dynse.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "enhance", "a.wav", "--model", dynse.model, "-q"],
        capture_output=True,
        cwd=dynse.folder,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"[]\n"


def test_the_shipped_default_cleans_and_keeps_quiet_speech(dynse, samples, noise):
    """-50 dBFS speech comes out within 1 dB of what -20 dBFS speech does."""
    import soundfile

    x, rate = soundfile.read(samples / "clean" / "clean_male.wav", dtype="float32")
    x /= np.sqrt(np.mean(x**2))
    for level in (-20, -50):
        dynse.write(f"speech{level}.wav", x * 10 ** (level / 20), rate, "FLOAT")
    dynse.write("noise.wav", noise(32000))
    inputs = ["speech-20.wav", "speech-50.wav", "noise.wav"]
    assert dynse(*inputs, "-o", "out", model="dynse-25").returncode == 0

    def change(name):
        y, z = dynse.read(f"out/{name}"), dynse.read(name)
        return 10 * np.log10(np.mean(y**2) / np.mean(z**2))

    assert abs(change("speech-20.wav") - change("speech-50.wav")) < 1
    assert abs(change("speech-20.wav")) < 3
    assert change("noise.wav") < -10


def test_a_zero_stretch_does_not_stay_in_the_state(dynse, samples):
    import soundfile

    x, rate = soundfile.read(samples / "noisy" / "hum_male.wav", dtype="float32")
    gap = np.zeros(3 * rate, np.float32)
    dynse.write("gap.wav", np.concatenate([x, gap, x]), rate, "FLOAT")
    assert dynse("gap.wav", "-o", "out.wav", model="dynse-25").returncode == 0
    y = dynse.read("out.wav")
    assert not y[len(x) + 512 : len(x) + len(gap) - 512].any()
    first, second = y[: len(x)][rate:], y[-len(x) :][rate:]
    ratio = np.mean(second**2) / np.mean(first**2)
    assert abs(10 * np.log10(ratio)) < 1


def test_names_that_a_file_system_may_not_tell_apart(here, dynse, monkeypatch, capsys):
    from dynse.cli import planning

    dynse.write("p/a.wav")
    dynse.write("q/A.wav")
    monkeypatch.setattr(planning, "_FOLDS_CASE", True)
    assert here("p", "q", "-o", "out") == 2
    assert "would both become" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(planning, "_FOLDS_CASE", False)
    assert here("p", "q", "-o", "out", "-q") == 0
    assert dynse.files("out") == ["A.wav", "a.wav"]


def test_a_picture_does_not_replace_a_device(here, dynse, capsys):
    dynse.write("a.wav")
    assert here("a.wav", "-o", "b.wav", "--plot", "/dev/null", "--overwrite") == 1
    assert "/dev/null: it is a device or a pipe" in capsys.readouterr().err
    assert not os.path.isfile("/dev/null")


def test_a_name_that_is_too_long_fails_before_the_work(dynse):
    name = "x" * 248 + ".wav"
    dynse.write(name)
    done = dynse(name)
    assert done.returncode == 1
    assert done.lines == [
        f"{name[:-4]}_enhanced.wav: it cannot be created: File name too long"
    ]  # fmt: skip
    assert dynse(name, "-o", "out/").returncode == 0
    assert dynse.files("out") == [name]
