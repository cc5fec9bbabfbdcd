"""`JSON of probe`, conditions and reports of the contract, for `probe` and `enhance` alike."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

NO_SOUND = ("it is no sound that can be read", "libsndfile cannot read it")
"""With ffmpeg and without."""


@pytest.fixture
def speech(dynse, speechlike):
    """Two recordings that the random probes find speech in, silence, nothing, and no sound."""
    dynse.write("a b.wav", speechlike, subtype="PCM_24")
    stereo = np.stack([speechlike, 0.5 * speechlike], 1)
    dynse.write("é.flac", np.repeat(stereo, 2, axis=0), 32000)
    dynse.write("silence.wav", np.zeros(8000))
    dynse.write("empty.wav", np.zeros(0), 8000)
    (dynse.folder / "text.wav").write_text("no sound")
    return ["a b.wav", "empty.wav", "silence.wav", "text.wav", "é.flac"]


def test_json_is_one_object_for_one_file_and_an_array_for_several(dynse, speech, strict_json):
    one = dynse.probe("a b.wav", "--json", "--frames")
    assert (one.returncode, one.text) == (0, "")
    report = strict_json(one.stdout)
    assert report["path"] == "a b.wav"
    assert report["audio"] == {
        "sample_rate": 16000, "channels": 1, "frames": 48000, "duration_s": 3.0,
        "subtype": "PCM_24", "peak_dbfs": report["audio"]["peak_dbfs"], "clipped_samples": 0,
    }  # fmt: skip
    assert all(len(track) == 189 for name, track in report["frames"].items() if "0" not in name and
               name != "hop_s")  # fmt: skip
    found = strict_json(dynse.probe("a b.wav", "é.flac", "--json").stdout)
    assert [entry["path"] for entry in found] == ["a b.wav", "é.flac"]
    (dynse.folder / "in").mkdir()
    os.rename(dynse.folder / "a b.wav", dynse.folder / "in/a.wav")
    (alone,) = strict_json(dynse.probe("in", "--json").stdout)
    assert alone["path"] == "in/a.wav", "a folder gives an array whatever it holds"
    assert len(dynse.probe("in", "--json").stdout) < 4000


@pytest.mark.parametrize("workers", [1, 2])
def test_jsonl_is_a_line_an_input_in_their_order_failures_too(dynse, speech, strict_json, workers):
    done = dynse.probe(".", "--jsonl", "-j", workers)
    assert done.returncode == 1
    reports = [strict_json(line) for line in done.stdout.splitlines()]
    assert [report["path"] for report in reports] == [f"./{name}" for name in speech]
    assert [report["status"] for report in reports] == ["ok", "ok", "ok", "error", "ok"]
    assert reports[3]["error"]["code"] == "unsupported"
    assert done.lines[0].startswith(tuple(f"./text.wav: {text}" for text in NO_SOUND))
    assert done.lines[-1].startswith("dynse: 5 inputs: 4 probed, 1 failed")
    nothing = reports[2]
    assert nothing["snr_db"] == {"input": None, "enhanced": None}
    assert nothing["vad"]["segments"] == []
    assert {warning["code"] for warning in nothing["warnings"]} == {"silence"}
    assert {warning["code"] for warning in reports[1]["warnings"]} == {"empty", "narrowband"}
    assert reports[1]["compute"] == {"utilisation": None, "mmac_per_s": 0.0, "frames": 0}


def test_enhance_gives_the_same_report_from_the_same_pass(dynse, speech, strict_json):
    """What `probe` says, besides where the output is; and the same sound as without."""
    names = ["a b.wav", "text.wav", "é.flac"]
    both = dynse(*names, "-o", "out", "--jsonl", "--frames", probes=dynse.probes)
    assert both.returncode == 1
    alone = dynse.probe(*names, "--jsonl", "--frames")
    reports = [strict_json(line) for line in both.stdout.splitlines()]
    assert [report.pop("output", None) for report in reports] == [
        "out/a b.wav", None, "out/é.flac"
    ]  # fmt: skip
    assert reports == [strict_json(line) for line in alone.stdout.splitlines()]
    assert dynse("a b.wav", "-o", "plain.wav", "-q").returncode == 0
    assert dynse.read("plain.wav").tobytes() == dynse.read("out/a b.wav").tobytes()


@pytest.mark.parametrize("do", ["enhance", "probe"])
def test_every_form_tells_of_failed_inputs(here, dynse, speech, strict_json, capsys, do):
    inputs = ["text.wav", "silence.wav"]
    out = ["--overwrite", *(["-o", "out"] if do == "enhance" else [])]

    def told(form):
        assert here(*inputs, *out, form, do=do, probes=dynse.probes) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith(tuple(f"text.wav: {text}" for text in NO_SOUND))
        return captured.out

    assert [r["status"] for r in strict_json(told("--json"))] == ["error", "ok"]
    assert [json.loads(line)["status"] for line in told("--jsonl").splitlines()] == ["error", "ok"]
    rows = list(csv.DictReader(io.StringIO(told("--csv"))))
    assert [row["status"] for row in rows] == ["error", "ok"]
    assert rows[0]["error"].startswith(NO_SOUND)
    assert told("--rttm").startswith(tuple(f";; text failed: {text}" for text in NO_SOUND))
    for form in ("--labels", "--textgrid", "--f0-csv"):
        assert here("text.wav", *out, form, do=do, probes=dynse.probes) == 1
        assert capsys.readouterr().out == ""


def test_segments_and_f0_for_other_programs(here, dynse, speech, strict_json, capsys):
    def told(form):
        assert here("a b.wav", form, do="probe") == 0
        return capsys.readouterr().out

    segments = strict_json(told("--json"))["vad"]["segments"]
    assert segments
    assert [line.split()[:3] for line in told("--rttm").splitlines()] == [
        ["SPEAKER", "a_b", "1"] for _ in segments
    ]
    assert [float(line.split("\t")[1]) for line in told("--labels").splitlines()] == [
        segment["end_s"] for segment in segments
    ]
    assert told("--textgrid").count('text = "speech"') == len(segments)
    columns = np.genfromtxt(io.StringIO(told("--f0-csv")), delimiter=",", names=True)
    assert columns.dtype.names == ("time", "frequency", "confidence")
    assert len(columns) == 189


def test_a_table_for_people_is_the_default(dynse, speech):
    done = dynse.probe("a b.wav", "silence.wav")
    assert done.returncode == 0
    for word in ("a b.wav", "SNR", "PESQ (estimate)", "of the channels", "it is digital silence"):
        assert word in done.stdout.decode()


def test_plot(dynse, speech):
    assert dynse.probe("a b.wav", "--plot", "p.png").returncode == 0
    done = dynse(
        "a b.wav", "-o", "out.wav", "--plot", "e.png", "--json", probes=dynse.probes
    )  # fmt: skip
    assert done.returncode == 0
    for name in ("p.png", "e.png"):
        assert (dynse.folder / name).read_bytes()[:4] == b"\x89PNG"
    before = (dynse.folder / "p.png").read_bytes()
    done = dynse.probe("a b.wav", "--plot", "p.png")
    assert done.returncode == 2
    assert "--overwrite" in done.text
    assert (dynse.folder / "p.png").read_bytes() == before


def test_a_report_of_independent_channels_says_that_it_is_of_the_first(dynse, noise, strict_json):
    dynse.write("stereo.wav", np.stack([0 * noise(8000), noise(8000)], axis=1))
    for mode, told in (("linked", False), ("independent", True), ("mono", False)):
        done = dynse(
            "stereo.wav", "-o", f"{mode}.wav", "--json", "--channel-mode", mode,
            probes=dynse.probes,
        )  # fmt: skip
        codes = [warning["code"] for warning in strict_json(done.stdout)["warnings"]]
        assert ("first_channel" in codes) == told, mode
    dynse.write("one.wav", noise(8000))
    done = dynse(
        "one.wav", "-o", "o.wav", "--json", "--channel-mode", "independent", probes=dynse.probes
    )
    assert "first_channel" not in done.stdout.decode()


def test_probe_reads_pipes_lists_globs_and_shards(dynse, speech, strict_json):
    data = bytearray((dynse.folder / "a b.wav").read_bytes())
    there = strict_json(dynse.probe("a b.wav", "--json").stdout)
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    piped = dynse.probe("-", "--json", stdin=bytes(data))
    assert piped.returncode == 0
    assert {**strict_json(piped.stdout), "path": ""} == {**there, "path": ""}
    raw = dynse.read("a b.wav", "int16").tobytes()
    how = ["--raw", "s16le", "--rate", 16000, "--channels", 1]
    assert strict_json(dynse.probe("-", *how, "--json", stdin=raw).stdout)["path"] == "-"
    listed = b"a b.wav\0silence.wav\0"
    done = dynse.probe("--files-from", "-", "--csv", stdin=listed)
    assert done.stdout.count(b"\n") == 3
    done = dynse.probe("*.flac", "--jsonl", "-q")
    assert (done.returncode, done.stdout.count(b"\n"), done.text) == (0, 1, "")
    lines = [dynse.probe(".", "-r", "--jsonl", "--shard", f"{k}/2").stdout for k in (1, 2)]
    assert sum(part.count(b"\n") for part in lines) == 5
    assert dynse.probe("a b.wav", "--rate", 8000).returncode == 2


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_probe_reads_what_enhance_reads(dynse, noise, strict_json):
    """Any rate, channels, sample format and container."""
    kinds = {
        "4k.wav": (4000, 1, "PCM_U8"), "8k.wav": (8000, 2, "ULAW"), "11k.wav": (11025, 1, "ALAW"),
        "44k.flac": (44100, 2, "PCM_24"), "48k.wav": (48000, 6, "FLOAT"),
        "96k.w64": (96000, 1, "PCM_32"), "384k.rf64": (384000, 1, "DOUBLE"),
        "64ch.wav": (8000, 64, "PCM_16"), "v.ogg": (22050, 2, "VORBIS"),
        "m.mp3": (44100, 2, "MPEG_LAYER_III"), "a.aiff": (32000, 1, "PCM_16"),
    }  # fmt: skip
    for name, (rate, channels, subtype) in kinds.items():
        dynse.write(name, noise(rate // 4, channels), rate, subtype)
    make = ["ffmpeg", "-nostdin", "-v", "error", "-i", "44k.flac", "a.m4a"]
    subprocess.run(make, cwd=dynse.folder, check=True)
    done = dynse.probe(*kinds, "a.m4a", "--jsonl", "-q")
    assert (done.returncode, done.text) == (0, "")
    for line in done.stdout.splitlines():
        report = strict_json(line)
        rate, channels, subtype = kinds.get(report["path"], (44100, 2, "COMPRESSED"))
        audio = report["audio"]
        assert (audio["sample_rate"], audio["channels"], audio["subtype"]) == (
            rate, channels, subtype
        )  # fmt: skip
        if subtype not in ("COMPRESSED", "MPEG_LAYER_III"):
            assert audio["frames"] == rate // 4
        narrow = "narrowband" in {warning["code"] for warning in report["warnings"]}
        assert narrow == (rate < 16000)


def test_probe_never_touches_stdin_unless_named(dynse):
    for name in "ab":
        dynse.write(f"{name}.wav")
    command = " ".join(f"'{part}'" for part in dynse.command(do="probe"))
    done = subprocess.run(
        ["bash", "-c", f'while read -r f; do {command} "$f" --csv; done'],
        input=b"a.wav\nb.wav\n",
        cwd=dynse.folder,
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert (done.stdout.count(b",ok,"), done.stderr) == (2, b"")


def test_assert_exits_3_and_a_failed_input_1(dynse, speech):
    ok = dynse.probe("a b.wav", "--assert", "duration_s>2 and not channels>1", "-q")
    assert (ok.returncode, ok.text) == (0, "")
    done = dynse.probe("a b.wav", "é.flac", "--assert", "channels==1", "--csv")
    assert done.returncode == 3
    assert done.lines[0] == "é.flac: channels==1 does not hold: channels is 2"
    assert done.stdout.count(b"\n") == 3
    done = dynse.probe("silence.wav", "--assert", "snr_db>-99", "-q")
    assert (done.returncode, done.lines) == (
        3, ["silence.wav: snr_db>-99 does not hold: snr_db is null"]
    )  # fmt: skip
    assert dynse.probe("silence.wav", "--assert", "snr_db==null").returncode == 0
    assert dynse.probe("text.wav", "a b.wav", "--assert", "channels>5").returncode == 1
    done = dynse.probe("a b.wav", "--assert", "loudness>3")
    assert done.returncode == 2
    assert "no field 'loudness'; known are" in " ".join(done.text.replace("│", " ").split())


def test_only_if_copies_the_others_untouched(dynse, speech, strict_json):
    names = ["a b.wav", "silence.wav", "text.wav", "é.flac"]
    done = dynse(
        *names, "-o", "out", "--only-if", "channels==2 and snr_db!=null", "--json",
        probes=dynse.probes,
    )  # fmt: skip
    assert done.returncode == 1
    for name in ("a b.wav", "silence.wav"):
        before, after = ((dynse.folder / f / name).read_bytes() for f in (".", "out"))
        assert before == after, "bit for bit"
        assert f"{name} -> out/{name}: copied untouched: channels==2" in done.text
    assert not np.array_equal(dynse.read("é.flac"), dynse.read("out/é.flac"))
    assert "4 inputs: 1 enhanced, 2 copied untouched, 1 failed" in done.text
    assert dynse.files("out") == ["a b.wav", "silence.wav", "é.flac"]
    reports = strict_json(done.stdout)
    codes = [{warning["code"] for warning in report["warnings"]} for report in reports]
    assert ["untouched" in code for code in codes] == [True, True, False, False]
    assert reports[2]["status"] == "error"


def test_only_if_keeps_samples_where_the_file_cannot_be_kept(here, dynse, speech, capsys):
    only = ["--only-if", "duration_s>99", "--probes", dynse.probes]
    assert here("a b.wav", "-o", "a.flac", *only) == 0
    np.testing.assert_array_equal(dynse.read("a.flac", "int32"), dynse.read("a b.wav", "int32"))
    assert dynse.info("a.flac").subtype == "PCM_24"
    assert here("é.flac", "-o", "mono.flac", "--channel-mode", "mono", *only) == 0
    assert dynse.info("mono.flac").channels == 1
    assert here("a b.wav", "-o", "b.wav", "--residual", "left.wav", *only) == 0
    assert not dynse.read("left.wav").any()
    assert here("a b.wav", "-o", "b.wav", *only) == 1, "--overwrite was not given"
    assert here("a b.wav", "-o", "b.wav", "--skip-existing", *only) == 0
    capsys.readouterr()
    for bad in (["-"], ["a b.wav", "-o", "-"]):
        assert here(*bad, *only) == 2
        assert "needs files, not pipes" in " ".join(capsys.readouterr().err.split())
    assert here("a b.wav", "-o", "x.wav", "--only-if", "snr_db<", "--probes", dynse.probes) == 2


def test_a_copy_of_a_damaged_file_says_so(dynse, noise):
    whole = dynse.write("in.wav", noise(16000)).read_bytes()
    (dynse.folder / "in.wav").write_bytes(whole[:20000])
    done = dynse("in.wav", "-o", "out.wav", "--only-if", "duration_s>99", probes=dynse.probes)
    assert done.returncode == 0
    assert (dynse.folder / "out.wav").read_bytes() == whole[:20000]
    assert done.lines[0].startswith("in.wav: warning: ")


def test_a_condition_with_an_unknown_label_is_wrong_usage(here, dynse, capsys):
    dynse.write("a.wav")
    options = ["a.wav", "--probes", dynse.probes]
    for do, option in (("enhance", "--only-if"), ("probe", "--assert")):
        assert here(*options, option, "noise==bable", do=do) == 2
        assert "nature, office, street" in " ".join(capsys.readouterr().err.split())
    assert dynse.files() == ["a.wav"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a b.wav", "--json", "-o", "-"], "stdout is taken"),
        (["a b.wav", "--json", "--csv"], "choose one form"),
        (["a b.wav", "--csv", "--frames"], "goes with --json"),
        (["a b.wav", "é.flac", "--labels"], "takes one input"),
        (["a b.wav"], "goes with --only-if"),
    ],
)
def test_wrong_usage_of_reports_is_2(here, dynse, speech, arguments, why, capsys):
    before = dynse.files()
    assert here(*arguments, probes=dynse.probes) == 2
    assert why in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert dynse.files() == before


@pytest.mark.parametrize("do", ["enhance", "probe"])
def test_without_probes_of_the_model_one_line_and_2(dynse, speech, do):
    command = [*dynse.command("a b.wav", "--json", do=do)]
    at = command.index("--probes") if "--probes" in command else None
    if at is not None:
        del command[at : at + 2]
    done = subprocess.run(command, cwd=dynse.folder, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().count("\n") == 1
    assert "no probes are shipped for the model 'tiny'" in done.stderr.decode()
    (dynse.folder / "p").write_text("no probes")
    for probes in ("p", "nowhere"):
        done = dynse("a b.wav", "--json", do=do, probes=probes)
        assert (done.returncode, done.stdout, len(done.lines)) == (2, b"", 1)
    assert not (dynse.folder / "a b_enhanced.wav").exists()


def test_fail_fast_and_interruption_of_probe(dynse, speech, noise, strict_json):
    done = dynse.probe("text.wav", "a b.wav", "--json", "--fail-fast")
    assert done.returncode == 1
    assert [report["path"] for report in strict_json(done.stdout)] == ["text.wav"]
    dynse.write("long.wav", noise(48000 * 600), 48000)
    process = dynse.start("a b.wav", "long.wav", "--jsonl", do="probe", stdout=subprocess.PIPE)
    assert strict_json(process.stdout.readline())["path"] == "a b.wav"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert said.decode().splitlines()[-2] == "dynse: interrupted"


def test_closed_pipe_ends_probe_quietly(dynse, speech):
    command = " ".join(f"'{part}'" for part in dynse.command(*speech * 3, "--jsonl", do="probe"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 100 > head; exit ${{PIPESTATUS[0]}}"],
        cwd=dynse.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1), "1 where the bad file came before anybody noticed"
    assert b"Traceback" not in done.stderr
    assert b"Broken" not in done.stderr


def test_names_that_are_no_text(dynse, speech, strict_json):
    latin = os.fsdecode(b"latin-\xe9.wav")
    os.rename(dynse.folder / "silence.wav", dynse.folder / latin)
    for locale in ("C.UTF-8", "C"):
        env = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"}
        done = dynse.probe("--json", "--", latin, "é.flac", "missing\n.wav", env=env)
        assert done.returncode == 1
        assert [report["path"] for report in strict_json(done.stdout)] == [
            "latin-\\xe9.wav", "é.flac", "missing\n.wav"
        ]  # fmt: skip
        assert done.lines[0] == "missing\\n.wav: there is no such file"
    for form in ("--csv", "-q"):
        assert dynse.probe(form, "--", latin, env=env).returncode == 0
