"""`--executor ray`, on a Ray of this machine; only where Ray is installed."""

import importlib.util
import os

import pytest

from dynse.cli.batch import run
from dynse.cli.planning import Job


def test_without_ray_the_text_says_what_to_install(dynse):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    dynse.write("a.wav")
    for done in (
        dynse("a.wav", "-o", "out/", "--executor", "ray"),
        dynse.probe("a.wav", "--executor", "ray"),
    ):
        assert done.returncode == 2
        assert done.lines == ["dynse: ray is not installed: pip install 'dynse[ray]'"]


def test_ray_gives_the_same_as_one(dynse, noise):
    pytest.importorskip("ray")
    for i in range(4):
        dynse.write(f"in/{i}.wav", noise(5000, seed=i))
    (dynse.folder / "in/bad.wav").write_text("words")
    ray = ["--executor", "ray", "-j", 2]
    done = [dynse("in", "-o", "one"), dynse("in", "-o", "ray", *ray)]
    assert [run.returncode for run in done] == [1, 1]
    assert dynse.files("one") == dynse.files("ray") == [f"{i}.wav" for i in range(4)]
    for name in dynse.files("one"):
        assert len({(dynse.folder / part / name).read_bytes() for part in ("one", "ray")}) == 1
    done = [dynse.probe("in", "--jsonl"), dynse.probe("in", "--jsonl", *ray)]
    assert [run.returncode for run in done] == [1, 1]
    assert done[0].stdout == done[1].stdout


@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_file_whose_ray_worker_died_is_tried_once_more_and_then_reported(tmp_path, capsys):
    pytest.importorskip("ray")
    marker = tmp_path / "died"

    class Work:
        sound_s = 1.0  # it is its own result

        def start(self):
            return self.do

        def do(self, job, heard):
            if job.source == "deadly" or (job.source == "flaky" and not marker.exists()):
                if job.source == "flaky":
                    marker.touch()
                os._exit(9)
            return self

    jobs = [Job(name, f"{name}.out") for name in ("a", "flaky", "deadly", "b")]
    ended = []
    tally = run(jobs, Work(), lambda _, i, __: ended.append(jobs[i].source), workers=2, ray=True)
    assert sorted(ended) == ["a", "b", "flaky"]
    assert (tally.done, tally.failed, tally.exit_code) == (3, 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("deadly: its worker died, twice")]
