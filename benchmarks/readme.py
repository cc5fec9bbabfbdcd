"""Tables of README.md that a command renews between their markers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def replace(text: str, marker: str, new: str) -> str:
    """`text` with what stands between ``<!-- marker -->`` and ``<!-- end -->`` renewed."""
    found, count = re.subn(
        f"(<!-- {marker} -->\n).*?(\n<!-- end -->)",
        lambda match: match[1] + new + match[2],
        text,
        count=1,
        flags=re.DOTALL,
    )
    if not count:
        raise SystemExit(f"README.md has no <!-- {marker} --> ... <!-- end -->")
    return found


def renew(parts: dict[str, str]) -> None:
    """Write README.md with each marker's part renewed."""
    text = README.read_text()
    for marker, new in parts.items():
        text = replace(text, marker, new)
    README.write_text(text)
