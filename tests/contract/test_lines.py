import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_that_is_named_exists():
    named = set(re.findall(r"`(test_\w+)`", (HERE / "lines.md").read_text()))
    written = set()
    for file in HERE.glob("test_*.py"):
        written |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    assert len(named) > 60
    assert named <= written, sorted(named - written)
