"""The README's figures of speed are those of docs/speed.json."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REPORT = json.loads((ROOT / "docs/speed.json").read_text())


@pytest.fixture(scope="module")
def speed_report():
    return runpy.run_path(str(ROOT / "benchmarks/speed_report.py"))


def test_readme_shows_what_was_measured(speed_report):
    assert speed_report["table"](REPORT) in (ROOT / "README.md").read_text()


def test_table_is_filled_in_between_its_markers(speed_report, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed -->\nold\n<!-- end -->\nafter <!-- end -->\n")
    speed_report["fill"](readme, REPORT)
    filled = readme.read_text()
    assert filled.startswith("before\n<!-- speed -->\n")
    assert filled.endswith("\n<!-- end -->\nafter <!-- end -->\n")
    assert "old" not in filled
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="want one <!-- speed -->"):
        speed_report["fill"](readme, REPORT)


def test_plot_is_drawn(speed_report, tmp_path):
    speed_report["draw"](REPORT, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
