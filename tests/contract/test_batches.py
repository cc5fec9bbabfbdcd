"""Many files: workers, shards, failures, kills."""

import os
import signal
import sys
import time
from itertools import chain

import pytest

from dynse.cli.batch import run
from dynse.cli.planning import Job, shard


def test_many_files_of_which_some_are_bad_and_kills_in_between(script, tmp_path, checkpoint_path):
    """A small `benchmarks/batch_torture.py`."""
    torture = script("batch_torture.py")["torture"]
    assert torture(tmp_path, 30, 12, kills=2, jobs=2, model=str(checkpoint_path)) == []


@pytest.mark.parametrize("workers", [2, 0])
def test_workers_give_the_same_as_one(dynse, noise, workers):
    for i in range(6):
        dynse.write(f"in/{i}.wav", noise(5000 + i, 2, seed=i))
    (dynse.folder / "in/bad.wav").write_text("words")
    done = [dynse("in", "-o", f"out{n}", "-j", n) for n in (1, workers)]
    assert [run.returncode for run in done] == [1, 1]
    assert dynse.files("out1") == dynse.files(f"out{workers}")
    for name in dynse.files("out1"):
        paths = (dynse.folder / folder / name for folder in ("out1", f"out{workers}"))
        assert len({path.read_bytes() for path in paths}) == 1
    for run_ in done:
        assert sum(line.startswith("in/bad.wav: ") for line in run_.lines) == 1
        assert "7 inputs: 6 enhanced, 1 failed" in run_.lines[-1]


def test_fail_fast_stops_at_the_first_failure(dynse):
    (dynse.folder / "a.wav").write_text("words")
    for name in "bcd":
        dynse.write(f"{name}.wav")
    done = dynse("a.wav", "b.wav", "c.wav", "d.wav", "-o", "out", "--fail-fast")
    assert done.returncode == 1
    assert "3 not started or finished" in done.lines[-1]
    assert dynse.files() == ["a.wav", "b.wav", "c.wav", "d.wav"]


def test_shards_share_the_inputs_without_gap_or_overlap(dynse, here):
    names = [f"{i}.wav" for i in range(8)]
    for name in names:
        dynse.write(f"in/{name}")
    for k in (1, 2, 3):
        assert here("in", "-o", f"out{k}", "--shard", f"{k}/3", "-q") == 0
    parts = [dynse.files(f"out{k}") for k in (1, 2, 3)]
    assert sorted(chain(*parts)) == names


def test_a_shard_does_not_depend_on_what_else_is_there():
    jobs = [Job(f"in/{i}.wav", f"out/{i}.wav") for i in range(1000)]
    parts = [shard(jobs, f"{k}/7") for k in range(1, 8)]
    assert sorted(chain(*parts), key=jobs.index) == jobs
    assert min(map(len, parts)) > 100
    assert shard(jobs[::2], "3/7") == [job for job in parts[2] if job in jobs[::2]]


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == pid:
                        found.append(int(name))
            except (OSError, ValueError, IndexError):
                pass
    return found


def busy(dynse, seen=()):
    """Wait until two files that were not yet are being written."""
    out = dynse.folder / "out"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = set(os.listdir(out)) if out.exists() else set()
        if len(parts - set(seen)) == 2:
            return parts
        time.sleep(0.02)
    raise AssertionError("the workers never came to it")


def test_a_file_whose_worker_died_is_tried_once_more_and_then_reported(dynse, noise):
    for name in "ab":
        dynse.write(f"{name}.wav", noise(48000 * 120, 1), 48000)
    for deaths, code in [(1, 0), (2, 1)]:
        process = dynse.start("a.wav", "b.wav", "-o", "out", "-j", 2, "--overwrite")
        seen = set(os.listdir(dynse.folder / "out")) if deaths == 2 else set()
        for _ in range(deaths):
            seen |= busy(dynse, seen)
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
        said = process.communicate(timeout=120)[1].decode()
        assert process.returncode == code, said
        assert "Traceback" not in said
        if code:
            lines = sorted(said.splitlines())[:2]
            assert [line.split(":")[0] for line in lines] == ["a.wav", "b.wav"]
            assert all("worker was killed (out of memory?), twice" in line for line in lines)
        else:
            assert dynse.info("out/a.wav").frames == 48000 * 120


def test_workers_end_when_their_parent_is_killed(dynse, noise):
    for name in "abcd":
        dynse.write(f"{name}.wav", noise(48000 * 120, 1), 48000)
    names = [f"{name}.wav" for name in "abcd"]
    process = dynse.start(*names, "-o", "out", "-j", 2)
    busy(dynse)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not [name for name in dynse.files("out") if name.endswith(".part")]


def test_work_that_cannot_start_is_one_error(tmp_path, monkeypatch):
    from dynse.cli.workers import WorkersError

    (tmp_path / "broken_work.py").write_text(
        "import os\n"
        "class Work:\n"
        "    def start(self): os._exit(7)\n"
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    import broken_work

    jobs = [Job("a", "b"), Job("c", "d")]
    with pytest.raises(WorkersError, match="no worker could be started: it ended with status 7"):
        run(jobs, broken_work.Work(), lambda *_: None, workers=2)
    del sys.modules["broken_work"]


def test_an_internal_error_costs_one_file(tmp_path, capsys):
    class Work:
        def start(self):
            return self.do

        def do(self, job, heard):
            if job.source == "bad":
                raise ZeroDivisionError("one\ntwo")
            return None

    tally = run([Job("bad", "x"), Job("good", "y")], Work(), lambda *_: None)
    assert (tally.failed, tally.skipped, tally.exit_code) == (1, 1, 1)
    assert capsys.readouterr().err == (
        "bad: internal error, ZeroDivisionError: one two (-v shows where)\n"
    )


def test_workers_import_nothing_from_the_current_folder(dynse):
    for name in ("a", "b"):
        dynse.write(f"in/{name}.wav")
    (dynse.folder / "json.py").write_text("open('ran', 'w')")
    assert dynse("in", "-o", "out", "-j", 2).returncode == 0
    assert dynse.files() == ["in/a.wav", "in/b.wav", "json.py", "out/a.wav", "out/b.wav"]
