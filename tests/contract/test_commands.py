"""`Commands` of the contract, and the examples of docs/cli.md."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

DOCS = Path(__file__).parents[2] / "docs"
INSTALLED = str(Path(sys.executable).with_name("dynse"))


def run(*arguments, **options):
    done = subprocess.run(
        [INSTALLED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    assert "Traceback" not in done.stderr
    return done


COMMANDS = ["enhance", "probe", "fit-probes", "train", "evaluate", "models", "export"]


def test_help_of_every_command():
    wide = {**os.environ, "COLUMNS": "120"}
    whole = run("--help", env=wide)
    assert all(command in whole.stdout for command in COMMANDS)
    for command in ("enhance", "probe"):
        done = run(command, "-h", env=wide)
        assert done.returncode == 0
        for option in ("--files-from", "--shard", "--raw", "--fail-fast", "--jsonl", "--executor"):
            assert option in done.stdout
    for command in ("fit-probes", "train", "evaluate", "models"):
        assert run(command, "--help").returncode == 0


def test_version_of_the_command_and_of_python_m():
    module = subprocess.run(
        [sys.executable, "-m", "dynse", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"dynse \d+\.\d+.*\n", module.stdout)
    assert run("--version").stdout == module.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell):
    source = run(env={**os.environ, "_DYNSE_COMPLETE": f"source_{shell}"})
    assert source.returncode == 0
    assert "dynse" in source.stdout
    if shell == "bash":
        asked = {"COMP_WORDS": "dynse enhance --clip ", "COMP_CWORD": "3"}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": "dynse enhance --clip ", "_TYPER_COMPLETE_FISH_ACTION":
                 "get-args"}  # fmt: skip
    done = run(env={**os.environ, **asked, "_DYNSE_COMPLETE": f"complete_{shell}"})
    for choice in ("clamp", "rescale", "none"):
        assert choice in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_completion_works_in_a_shell():
    """As bash itself does it on Tab, with what `--show-completion` prints."""
    done = subprocess.run(
        ["bash", "--norc"],
        input='eval "$(_DYNSE_COMPLETE=source_bash dynse)"\n'
        "COMP_WORDS=(dynse pro) COMP_CWORD=1\n_dynse_completion dynse\n"
        'echo "${COMPREPLY[@]}"\n',
        env={**os.environ, "PATH": f"{Path(INSTALLED).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "probe\n"


def test_models_are_listed_with_what_one_wants_to_know():
    (row, *_) = json.loads(run("models", "--json").stdout)
    assert re.fullmatch("[0-9a-f]{64}", row["sha256"])
    for name in ("parameters", "dense_mmac_per_s", "latency_ms", "license", "training_data"):
        assert row[name], name
    table = run("models").stdout
    for word in (row["name"], "MMAC/s", "latency", row["license"], row["sha256"]):
        assert word in table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`DATA/` of one's own: clean/ and noise/ with their tables."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, names in (("clean", ("anna", "bert", "carl")), ("noise", ("rain", "hum", "wind"))):
        for name in names:
            place = folder / part / name
            place.mkdir(parents=True)
            x = 0.1 * rng.standard_normal(48000)
            if part == "clean":
                x *= np.sin(np.arange(48000) / 4000) > 0
            soundfile.write(place / "x.wav", x, 16000)
    (folder / "speakers.csv").write_text(
        "speaker,gender,split\nanna,female,train\nbert,male,valid\ncarl,male,test\n"
    )
    (folder / "noise.csv").write_text(
        "name,category,split\nrain/x.wav,nature,train\nhum/x.wav,office,valid\n"
        "wind/x.wav,nature,test\n"
    )
    return folder


def test_fit_probes_check_only_counts(data, tmp_path):
    done = run("fit-probes", data, "--check", "--json", cwd=tmp_path)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["train"]["gender_minutes"] == {"female": 0.05}
    assert list(tmp_path.iterdir()) == []


def test_train_and_evaluate_take_the_same_data(data, tmp_path):
    """Two steps of a tiny network, which then enhances and is scored."""
    command = ["train", data, "--out", tmp_path / "run", "--steps", 2, "--batch", 2]
    command += ["--seconds", 1, "--hidden", 16, "--valid-every", 2, "--valid-mixtures", 8]
    cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run(*command, "--no-compile", "--workers", 0, env=cache)
    assert done.returncode == 0, done.stderr
    model = tmp_path / "run" / "last.safetensors"
    for name in ("state.pt", "log.jsonl", "best.safetensors"):
        assert (tmp_path / "run" / name).exists()
    source = next((data / "clean").rglob("*.wav"))
    assert run("enhance", source, "-o", tmp_path / "out.wav", "--model", model).returncode == 0
    done = run("evaluate", source, tmp_path / "out.wav", "--model", model, "--json", "-j", 1)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert {"model", "mean", "files"} <= scores.keys()


# ----------------------------------------------------------------------- the examples of the page


def examples():
    """Commands of the page's examples, a shell script each."""
    text = (DOCS / "cli.examples.md").read_text().partition("## Examples")[2]
    blocks = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    found = []
    for block in blocks:
        lines = [line[4:] for line in block.splitlines()]
        found += ["\n".join(lines)] if lines[0].startswith("#!") else lines
    return found


def test_there_are_examples_of_all_pipelines():
    text = "\n".join(examples())
    for word in ("find", "xargs -0", "while read", "ffmpeg", "parallel", "SLURM", "ray", "sox"):
        assert word in text


# Not tried: they need a microphone, a cluster, or change the user's shell.
ELSEWHERE = ("arecord", "--executor ray", "--install-completion")


@pytest.fixture
def place(tmp_path):
    """What the examples talk of."""
    rng = np.random.default_rng(0)
    for name in ("talk", "in", "recordings/a", "recordings/deep/b b", "data/recordings/c"):
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(4000), 16000)
    (tmp_path / "list.txt").write_text("talk.wav\n")
    (tmp_path / "last-run").touch()
    os.utime(tmp_path / "last-run", (0, 0))
    if shutil.which("ffmpeg"):
        make = "ffmpeg -nostdin -v error -i talk.wav film.mkv"
        subprocess.run(make.split(), cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("example", [e for e in examples() if not any(x in e for x in ELSEWHERE)])
def test_examples_work(example, place, dynse):
    for tool in ("ffmpeg", "sox", "parallel"):
        if re.search(rf"(^|\| ){tool} ", example) and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    before = set(place.rglob("*"))
    script = example.replace("/data/", "data/").replace("/32", "/1")
    script = script.replace("ffmpeg -i", "ffmpeg -v error -i")
    if re.search("dynse probe|--json|--only-if", script):
        own = f"--model '{dynse.model}' --probes '{dynse.probes}'"
        script = re.sub("dynse (enhance|probe)", rf"dynse \1 {own}", script)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "PATH": f"{Path(INSTALLED).parent}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": "1",
            "PARALLEL_HOME": str(place / ".parallel"),
        },
    )
    assert done.returncode in ((0, 3) if "--assert" in example else (0,)), done.stderr
    assert "Traceback" not in done.stderr
    made = {p for p in set(place.rglob("*")) - before if p.suffix in (".wav", ".m4a", ".jsonl")}
    assert made or done.stdout
    if "--csv" in example:
        assert list(csv.DictReader(io.StringIO(done.stdout)))
