"""The installed command as a black box: what a user types, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]

INSTALLED = os.path.join(os.path.dirname(sys.executable), "dynse")


class Dynse:
    """Runs `dynse` in a folder, with the tiny model, and keeps what it said."""

    def __init__(self, folder: Path, model: Path, probes: Path):
        self.folder, self.model, self.probes = folder, model, probes

    def command(self, *arguments, do="enhance", model=None, probes=None):
        own = ["--model", model or self.model]
        if do == "probe" or probes:
            own += ["--probes", probes or self.probes]
        return [INSTALLED, do, *map(str, [*own, *arguments])]

    def __call__(self, *arguments, do="enhance", model=None, probes=None, stdin=b"", **options):
        done = subprocess.run(
            self.command(*arguments, do=do, model=model, probes=probes),
            cwd=self.folder,
            input=stdin,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
            **options,
        )
        done.text = done.stderr.decode()
        done.lines = done.text.splitlines()
        assert "Traceback" not in done.text
        assert "internal error, " not in done.text
        return done

    def probe(self, *arguments, **options):
        return self(*arguments, do="probe", **options)

    def start(self, *arguments, do="enhance", **options):
        options = {"stderr": subprocess.PIPE, "cwd": self.folder, **options}
        return subprocess.Popen(self.command(*arguments, do=do), **options)

    def files(self, folder="."):
        """All files below a folder, hidden ones too."""
        top = self.folder / folder
        found = (Path(place, name) for place, _, names in os.walk(top) for name in names)
        return sorted(path.relative_to(top).as_posix() for path in found)

    def write(self, name, samples=None, rate=16000, subtype="PCM_16", **options):
        """Write a sound file; 0.2 s of noise by default."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = noise(rate // 5) if samples is None else samples
        soundfile.write(path, samples, rate, subtype=subtype, **options)
        return path

    def read(self, name, dtype="float32"):
        return soundfile.read(self.folder / name, dtype=dtype)[0]

    def info(self, name):
        return soundfile.info(self.folder / name)


def noise(*shape, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(name="noise", scope="session")
def noise_():
    return noise


@pytest.fixture
def dynse(checkpoint_path, probes_path, tmp_path):
    return Dynse(tmp_path, checkpoint_path, probes_path)


@pytest.fixture
def here(dynse, monkeypatch):
    """The same in this process: quicker, where only files and exit code are looked at."""
    from dynse.cli.app import _run

    monkeypatch.chdir(dynse.folder)

    def run(*arguments, do="enhance", probes=None):
        return _run(dynse.command(*arguments, do=do, probes=probes)[1:])

    return run


@pytest.fixture(scope="session")
def samples():
    return ROOT / "samples"


@pytest.fixture(scope="session")
def script():
    """Load a script of benchmarks/ as a namespace."""
    import runpy

    return lambda name: runpy.run_path(str(ROOT / "benchmarks" / name))
