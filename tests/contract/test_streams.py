"""Pipes, stdout and stderr, exit codes, interruption."""

import io
import os
import pty
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile


def wav(samples, rate=16000, size=None):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, "PCM_16", format="WAV")
    data = bytearray(out.getvalue())
    if size is not None:
        data[40:44] = struct.pack("<I", size)
    return bytes(data)


@pytest.fixture
def expected(dynse, here, noise):
    """What comes of the file, as bytes of its samples."""
    dynse.write("in.wav", noise(20000, 2))
    assert here("in.wav", "-o", "expected.wav") == 0
    return dynse.read("expected.wav", "int16").tobytes()


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF])
def test_wav_in_wav_out_whatever_the_size_fields_say(dynse, noise, expected, size):
    done = dynse("-", "-o", "-", stdin=wav(noise(20000, 2), size=size))
    assert done.returncode == 0
    assert done.stdout[:4] == b"RIFF"
    assert done.stdout[-len(expected) :] == expected
    assert len(done.lines) == 1, "data on stdout, the rest on stderr"


def test_stdin_alone_goes_to_stdout_and_stdin_into_a_file(dynse, noise, expected):
    data = wav(noise(20000, 2))
    assert dynse("-", stdin=data).stdout[-len(expected) :] == expected
    assert dynse("-", "-o", "x.wav", stdin=data).stdout == b""
    assert dynse.read("x.wav", "int16").tobytes() == expected


@pytest.mark.parametrize(("raw", "code"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_raw_in_raw_out(dynse, noise, expected, raw, code):
    pcm = dynse.read("in.wav", "int16" if raw == "s16le" else "float32").astype(code).tobytes()
    how = ["--raw", raw, "--rate", "16000", "--channels", "2"]
    done = dynse("-", *how, stdin=pcm)
    assert done.returncode == 0
    assert len(done.stdout) == len(pcm), "no header"
    got = np.frombuffer(done.stdout, code).astype(float) / (32768 if raw == "s16le" else 1)
    np.testing.assert_allclose(got, np.frombuffer(expected, "<i2") / 32768, atol=2**-15)
    (dynse.folder / "in.pcm").write_bytes(pcm)
    assert dynse("in.pcm", *how, "-o", "out.raw").returncode == 0
    assert (dynse.folder / "out.raw").read_bytes() == done.stdout
    assert dynse("in.pcm", *how).returncode == 0
    assert dynse.info("in_enhanced.wav").samplerate == 16000
    done = dynse("in.wav", *how, "-o", "no.wav")
    assert done.returncode == 1
    assert "leave --raw out" in done.text


def test_first_samples_leave_before_the_last_arrive(dynse, noise):
    """Of 3 s of 48 kHz stereo, at least 2.2 s are out while more may come."""
    data = wav(noise(3 * 48000, 2), 48000, 0xFFFFFFFF)
    process = dynse.start("-", "-o", "-", "-q", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    seen = threading.Event()

    def feed():
        process.stdin.write(data)
        process.stdin.flush()
        assert seen.wait(60)
        process.stdin.close()

    thread = threading.Thread(target=feed)
    with process:
        thread.start()
        wanted = int(2.2 * 48000) * 4
        assert len(process.stdout.read(wanted)) == wanted
        seen.set()
        rest = process.stdout.read()
        thread.join()
    assert process.returncode == 0
    assert wanted + len(rest) - len(data) in range(40)


def test_memory_does_not_grow_with_the_length(dynse):
    peaks = []
    for seconds in (20, 200):
        samples = np.random.default_rng(0).integers(-3000, 3000, 8000 * seconds).astype("<i2")
        process = dynse.start("-", "-o", "-", "-q", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        data = wav(samples, 8000, 0xFFFFFFFF)

        def feed(process=process, data=data):
            process.stdin.write(data)
            process.stdin.close()

        thread = threading.Thread(target=feed)
        thread.start()
        received = sum(map(len, iter(lambda p=process: p.stdout.read(1 << 16), b"")))
        thread.join()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        process.stderr.close()
        assert process.returncode == 0
        assert received == 44 + 2 * len(samples)
        peaks.append(usage.ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 20, "MB"


def test_closed_pipe_ends_quietly(dynse, noise):
    dynse.write("long.wav", noise(16000 * 30))
    command = " ".join(f"'{part}'" for part in dynse.command("long.wav", "-o", "-"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1000 > head; exit ${{PIPESTATUS[0]}}"],
        cwd=dynse.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_quiet_and_verbose(dynse):
    dynse.write("a.wav")
    (dynse.folder / "b.wav").write_text("words")
    done = dynse("a.wav", "b.wav", "-o", "out", "-q")
    assert done.returncode == 1
    assert done.lines[0].startswith("b.wav: ")
    assert done.stdout == b""
    done = subprocess.run(
        dynse.command("b.wav", "-v"), cwd=dynse.folder, capture_output=True, check=False
    )
    assert b"Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"b.wav: ")


def test_progress_only_where_a_person_looks(dynse, noise):
    sound = noise(48000 * 20, 2)
    dynse.write("a.wav", sound, 48000)
    dynse.write("b.wav", np.tile(sound, (8, 1)), 48000)  # takes longer than the time between draws
    master, slave = pty.openpty()
    process = dynse.start("-", "b.wav", "-o", "out", stderr=slave, stdin=subprocess.PIPE)
    os.close(slave)
    sound = (dynse.folder / "a.wav").read_bytes()
    # Quick work shows no bar: on any machine this takes a second.
    for part in range(10):
        process.stdin.write(sound[part * len(sound) // 10 : (part + 1) * len(sound) // 10])
        process.stdin.flush()
        time.sleep(0.2)
    process.stdin.close()
    seen = b""
    try:
        while data := os.read(master, 1 << 16):
            seen += data
    except OSError:  # Linux: the other end is closed
        pass
    os.close(master)
    assert process.wait(60) == 0
    assert b"/2 files" in seen
    assert b"of sound done, about" in seen
    done = dynse("a.wav", "-o", "again.wav")
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("workers", "number"),
    [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM), (1, signal.SIGHUP)],
)
def test_interruption_is_130_and_leaves_no_half_file(dynse, noise, workers, number):
    for i in range(4):
        dynse.write(f"in/{i}.wav", noise(48000 * 60, 1, seed=i), 48000)
    process = dynse.start(
        "in", "-o", "out", "-j", workers, start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup hands down ignored ones
    )  # fmt: skip
    out = dynse.folder / "out"
    deadline = time.monotonic() + 60
    while not (out.exists() and any(name.endswith(".part") for name in os.listdir(out))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert b"dynse: interrupted" in said
    left = dynse.files("out")
    assert not [name for name in left if name.endswith(".part")]
    assert len(left) < 4
    assert all(dynse.info(f"out/{name}").frames == 48000 * 60 for name in left)


def test_second_interruption_is_immediate(dynse, noise, tmp_path):
    """A program that never comes to the end of tidying up stands for whatever hangs."""
    (tmp_path / "hanging.py").write_text(
        "import time\n"
        "from dynse.cli.batch import run\n"
        "from dynse.cli.planning import Job\n"
        "class Work:\n"
        "    def start(self): return self.do\n"
        "    def do(self, job, heard):\n"
        "        try: print('started', flush=True); time.sleep(60)\n"
        "        finally: print('tidying', flush=True); time.sleep(60)\n"
        "run([Job('a', 'b')], Work(), lambda *_: None)\n"
    )
    with subprocess.Popen([sys.executable, "hanging.py"], cwd=tmp_path, stdout=-1) as process:
        for word in (b"started\n", b"tidying\n"):
            assert process.stdout.readline() == word
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_wrong_model_is_one_line(dynse):
    dynse.write("a.wav")
    dynse.write("b.wav")
    done = dynse("a.wav", "b.wav", model="nope")
    assert done.returncode == 2
    assert len(done.lines) == 1
    assert "shipped models are" in done.text
    (dynse.folder / "bad.safetensors").write_bytes(b"bad")
    for workers in (1, 2):
        done = dynse("a.wav", "b.wav", "-j", workers, model="bad.safetensors")
        assert done.returncode == 2
        assert len(done.lines) == 1
        assert "not a safetensors file" in done.text


def closed(dynse, redirections, *arguments, **options):
    """Run `dynse` with descriptors closed by the shell."""
    command = " ".join(f"'{part}'" for part in dynse.command(*arguments, **options))
    return subprocess.run(
        ["bash", "-c", f"{command} {redirections}"],
        cwd=dynse.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_closed_descriptors_are_no_files(dynse):
    """The first file that is opened must not become stdin, stdout or stderr."""
    dynse.write("a.wav")
    assert dynse("a.wav", "-o", "whole.wav").returncode == 0
    whole = dynse.read("whole.wav").tobytes()
    assert closed(dynse, "<&- >&- 2>&-", "a.wav", "-o", "all.wav").returncode == 0
    assert dynse.read("all.wav").tobytes() == whole
    # Python prints to stdout what it cannot say on stderr.
    done = closed(dynse, "2>&-", "a.wav", "-o", "-")
    assert (done.returncode, done.stdout[:4]) == (0, b"RIFF")
    assert closed(dynse, "2>&-", "missing.wav", "-o", "x.wav").stdout == b""
    done = closed(dynse, "<&-", "-", "-o", "x.wav")
    assert (done.returncode, done.stderr) == (1, b"stdin: it is empty (0 bytes)\n")
    done = closed(dynse, ">&-", "a.wav", "-o", "-")
    assert (done.returncode, done.stderr) == (
        1, b"stdout: writing failed (Bad file descriptor)\n"
    )  # fmt: skip


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_a_report_that_cannot_be_written_is_one_line(dynse, stdout):
    dynse.write("a.wav")
    for form in ("--json", "-q"):
        done = closed(dynse, stdout, "a.wav", form, do="probe")
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1
        assert b"Exception ignored" not in done.stderr


def test_all_files_are_written_though_the_reader_of_reports_has_gone(dynse):
    for i in range(4):
        dynse.write(f"in/{i}.wav")
    (dynse.folder / "in/0.wav").write_text("words")
    # The pipe has no reader from the start.
    reports, end = os.pipe()
    os.close(reports)
    done = dynse("in", "-o", "out", "--jsonl", "-q", probes=dynse.probes, stdout=end)
    os.close(end)
    assert (done.returncode, len(done.lines)) == (1, 2), done.text
    assert dynse.files("out") == ["1.wav", "2.wav", "3.wav"]
    (dynse.folder / "in/0.wav").unlink()
    done = closed(
        dynse, "| true; exit ${PIPESTATUS[0]}", "in", "-o", "again", "--json", probes=dynse.probes
    )
    assert done.returncode == 0
    assert dynse.files("again") == ["1.wav", "2.wav", "3.wav"]


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_all_files_are_written_though_reports_cannot_be(dynse, stdout):
    for i in range(3):
        dynse.write(f"in/{i}.wav")
    done = closed(dynse, stdout, "in", "-o", "out", "--csv", "-q", probes=dynse.probes)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"the reports could not be written" in done.stderr
    assert dynse.files("out") == ["0.wav", "1.wav", "2.wav"]


def test_messages_that_cannot_be_written_stop_no_work(dynse):
    for i in range(3):
        dynse.write(f"in/{i}.wav")
    assert closed(dynse, "2>/dev/full", "in", "-o", "out").returncode == 0
    assert dynse.files("out") == ["0.wav", "1.wav", "2.wav"]
    (dynse.folder / "in/0.wav").write_text("words")
    assert closed(dynse, "2>/dev/full", "in", "-o", "out", "--overwrite").returncode == 1
    assert closed(dynse, "2>/dev/full", "in", "-o", "in").returncode == 2
    assert closed(dynse, "2>/dev/full", "in", do="probe").returncode == 1


def test_a_stream_lags_less_than_a_second(script, dynse):
    """6 s of stereo 48 kHz at the pace of a microphone; at full size, `benchmarks/long_pipe.py`."""
    found = script("long_pipe.py")["Pipe"](6 / 3600, 1.0, str(dynse.model)).drain()
    assert (found["exit code"], found["frames lost"]) == (0, 0)
    # Behind by a block of 0.1 s, the network's 32 ms and the resampler. Time waited for depends on
    # what else the machine does, so only the median is held to it.
    assert found["lag, median, s"] < 1
    assert found["lag in sound, median, s"] < 1


def test_data_does_not_follow_the_bar_to_stderr(dynse, noise):
    """A bar on a terminal takes hold of stdout if it is let: reports must not land there."""
    for name in "ab":
        dynse.write(f"{name}.wav", noise(48000 * 60), 48000)
    master, slave = pty.openpty()
    process = dynse.start(
        "-", "a.wav", "b.wav", "--jsonl", do="probe", stderr=slave, stdin=-1, stdout=-1
    )
    os.close(slave)
    sound = (dynse.folder / "a.wav").read_bytes()
    seen = b""
    with process:
        for part in range(10):  # long enough for a bar
            process.stdin.write(sound[part * len(sound) // 10 : (part + 1) * len(sound) // 10])
            process.stdin.flush()
            time.sleep(0.1)
        process.stdin.close()
        data = process.stdout.read()
        try:
            while more := os.read(master, 1 << 16):
                seen += more
        except OSError:  # Linux: the other end is closed
            pass
    os.close(master)
    assert process.returncode == 0
    assert b"/3 files" in seen
    assert data.count(b'"status": "ok"') == data.count(b"\n") == 3
    assert b'"status"' not in seen
