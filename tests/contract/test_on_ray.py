"""`--executor ray`, on a Ray of this machine; only where Ray is installed."""

import importlib.util

import pytest


def test_without_ray_the_text_says_what_to_install(dynse):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    dynse.write("a.wav")
    done = dynse("a.wav", "-o", "out/", "--executor", "ray")
    assert done.returncode == 1
    assert done.lines == ["dynse: ray is not installed: pip install 'dynse[ray]'"]


def test_ray_gives_the_same_as_one(dynse, noise):
    pytest.importorskip("ray")
    for i in range(4):
        dynse.write(f"in/{i}.wav", noise(5000, seed=i))
    (dynse.folder / "in/bad.wav").write_text("words")
    done = [dynse("in", "-o", "one"), dynse("in", "-o", "ray", "--executor", "ray", "-j", 2)]
    assert [run.returncode for run in done] == [1, 1]
    assert dynse.files("one") == dynse.files("ray") == [f"{i}.wav" for i in range(4)]
    for name in dynse.files("one"):
        assert len({(dynse.folder / part / name).read_bytes() for part in ("one", "ray")}) == 1
