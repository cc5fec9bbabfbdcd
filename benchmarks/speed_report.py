"""What `benchmarks.speed` measured, as a plot and as the README's table.

python -m benchmarks.speed_report     # draw docs/speed.png and fill the README from docs/speed.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    "pyrnnoise": "RNNoise (pyrnnoise, a Python call a frame)",
    "webrtc_noise_gain": "WebRTC NS (no network)",
    "noisereduce": "noisereduce (no network)",
}


def table(report: dict[str, Any]) -> str:
    """Markdown: real-time factors, then what users ask for."""
    machine = report["machine"]
    lines = [
        f"{report['seconds'] / 60:g} min of noisy speech at 16 kHz, utilisation"
        f" {report['utilisation']:.2f}, one thread of an {machine['cpu']} ({machine['kernel']}),"
        f" load {machine['load_before']:.1f} before; median and range of interleaved rounds"
        " (`python -m benchmarks.speed`):",
        "",
        "| | real-time factor | time, dynse = 1 |",
        "| --- | --- | --- |",
    ]
    for name, found in report["real_time_factor"].items():
        ratio = report["times_as_fast_as"].get(name)
        lines.append(
            f"| {NAMES.get(name, name)} | {_range(found, '.4f')} |"
            f" {_range(ratio, '.1f') if ratio else 1} |"
        )
    network = report["network_us_a_frame"]
    lines += [
        "",
        "| network alone, a frame of 16 ms | pruned | all gates open | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for block, found in network.items():
        lines.append(
            f"| {block} frame{'s' if block != '1' else ''} a call |"
            f" {found['pruned']['median']:.1f} µs | {found['all_open']['median']:.1f} µs |"
            f" {_range(found['ratio'], '.2f')} |"
        )
    command, stream = report["command_s"], report["streaming_16_ms_call_ms"]
    memory = report["peak_mb_by_minutes"]
    rows = []
    for name, found in command.items():
        what, comma, rest = name.partition(",")
        rows.append((f"`dynse {what}`{comma}{rest}", f"{_range(found, '.2f')} s"))
    rows.append(
        (
            "16 ms a call through `dynse.Stream`",
            f"{stream['median']:.3f} ms, 99th percentile {stream['p99']:.3f} ms",
        )
    )
    rows.append(
        (
            "peak memory of `enhance`",
            ", ".join(f"{mb:.0f} MB on {n} min" for n, mb in memory.items()),
        )
    )
    workers = report["workers"]
    rows += [
        (f"`-j {n}` on {workers['cores']} cores", f"{found['speed_up']['median']:.2f} times `-j 1`")
        for n, found in workers.items()
        if n not in ("1", "cores")
    ]
    lines += ["", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


def _range(found: dict[str, float], form: str) -> str:
    return f"{found['median']:{form}} ({found['min']:{form}} to {found['max']:{form}})"


def fill(readme: Path, report: dict[str, Any]) -> None:
    """Put the table between the README's markers."""
    text = readme.read_text()
    mark = re.compile(r"(<!-- speed -->\n).*?(<!-- end -->)", re.DOTALL)
    filled, count = mark.subn(lambda m: m[1] + table(report) + "\n" + m[2], text)
    if count != 1:
        raise SystemExit(f"{readme}: want one <!-- speed --> ... <!-- end -->, found {count}")
    readme.write_text(filled)


def draw(report: dict[str, Any], path: Path) -> None:
    """Real-time factors, and time against utilisation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    found = report["real_time_factor"]
    names = sorted(found, key=lambda name: -found[name]["median"])
    medians = [found[name]["median"] for name in names]
    errors = [
        [found[name]["median"] - found[name]["min"] for name in names],
        [found[name]["max"] - found[name]["median"] for name in names],
    ]
    left.barh([NAMES.get(name, name) for name in names], medians, xerr=errors, color="C0")
    left.set_xscale("log")
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("real-time factor, one thread")
    points = sorted(report["speed_against_utilisation"], key=lambda p: p["utilisation"])
    used = [point["utilisation"] for point in points]
    for block, colour in (("1", "C0"), ("64", "C1")):
        times = [point[f"us_a_frame_{block}"] for point in points]
        median = [t["median"] for t in times]
        frames = "1 frame" if block == "1" else f"{block} frames"
        right.plot(used, median, "o-", color=colour, label=f"{frames} a call")
        low, high = [t["min"] for t in times], [t["max"] for t in times]
        right.fill_between(used, low, high, color=colour, alpha=0.2)
    right.axvline(report["utilisation"], color="grey", lw=1, ls=":", label="as shipped")
    right.set_xlabel("utilisation")
    right.set_ylabel("µs a frame of 16 ms, network only")
    right.set_xlim(0, 1)
    right.set_ylim(bottom=0)
    right.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw and fill from what was measured before."""
    report = json.loads((ROOT / "docs" / "speed.json").read_text())
    draw(report, ROOT / "docs" / "speed.png")
    fill(ROOT / "README.md", report)


if __name__ == "__main__":
    main()
