#!/usr/bin/env python3
"""Plots and compares Google Benchmark's JSON files. Needs nothing but Python 3.

    report.py plot RESULTS... [--svg FILE]              times, and shares of the floor where they were measured
    report.py compare BEFORE AFTER [--svg FILE]         after / before, benchmark by benchmark

RESULTS, BEFORE and AFTER are files or folders of files, as benchmarks/run.sh and benchmarks/cuda/run.sh write them.
Times are real times; of repetitions the median is taken. Ratios below 1 are faster. Compare only files of one machine.
"""

import argparse
import html
import json
import math
import statistics
import sys
from pathlib import Path

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
ROW, BAR, LABELS, BARS, NUMBERS = 18, 12, 460, 420, 120  # pixels


class ReportError(Exception):
    """A file that cannot be worked with; the message says which and why."""


def json_files(path):
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise ReportError(f"{path}: no *.json files in this folder")
    return files


def sample_of(row):
    """(name, seconds, share or None) of a benchmark's row; None for one without a result, which is said."""
    if row.get("error_occurred"):
        print(f"report: {row['name']} failed: {row.get('error_message', 'no reason given')}", file=sys.stderr)
        return None
    if row.get("run_type") == "aggregate":
        return None  # the median is taken here, from the repetitions
    return row["name"], row["real_time"] * SECONDS[row["time_unit"]], row.get("share")


def load(path):
    """{name: {"seconds": float, "share": float or None}} of a file or folder, in its order."""
    samples = {}
    for file in json_files(path):
        try:
            rows = [sample_of(row) for row in json.loads(file.read_text(encoding="utf-8"))["benchmarks"]]
        except OSError as error:
            raise ReportError(f"{file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ReportError(f"{file}: not a result of Google Benchmark (--benchmark_out_format=json)") from None
        for name, seconds, share in filter(None, rows):
            if seconds > 0:
                samples.setdefault(name, []).append((seconds, share))
    if not samples:
        raise ReportError(f"{path}: no benchmark has a result")
    return {name: median(of_name) for name, of_name in samples.items()}


def median(samples):
    shares = [share for _, share in samples if share is not None]
    return {
        "seconds": statistics.median(seconds for seconds, _ in samples),
        "share": statistics.median(shares) if shares else None,
    }


def time_text(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def svg(title, rows, axis):
    """Rows are (label, from, to, text at the right, colour); from and to are shares of the bars' width."""
    width, height = LABELS + BARS + NUMBERS, 40 + ROW * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="16" font-size="13" font-weight="bold">{html.escape(title)}</text>',
    ]
    for share, text in axis:
        x = LABELS + BARS * share
        out.append(f'<line x1="{x:.1f}" y1="32" x2="{x:.1f}" y2="{height - 4}" stroke="#cccccc"/>')
        out.append(f'<text x="{x:.1f}" y="28" text-anchor="middle" fill="#666666">{text}</text>')
    for i, (label, begin, end, text, colour) in enumerate(rows):
        y = 36 + ROW * i
        out.append(f'<text x="{LABELS - 6}" y="{y + 10}" text-anchor="end">{html.escape(label)}</text>')
        x, length = LABELS + BARS * min(begin, end), max(1.0, BARS * abs(end - begin))
        out.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        out.append(f'<text x="{LABELS + BARS + 6}" y="{y + 10}">{html.escape(text)}</text>')
    return "\n".join(out) + "\n</svg>\n"


def plot(results):
    """(text, SVG): bars are shares of the floor where every row has one, else times on a logarithmic axis."""
    text = "".join(
        f"{name:<60} {time_text(row['seconds']):>10}"
        + (f" {100 * row['share']:6.1f} % of the floor\n" if row["share"] is not None else "\n")
        for name, row in results.items()
    )
    if all(row["share"] is not None for row in results.values()):
        axis = [(i / 4, f"{25 * i} %") for i in range(5)]
        rows = [
            (name, 0.0, min(row["share"], 1.0), time_text(row["seconds"]), "#4477aa") for name, row in results.items()
        ]
        return text, svg("Share of the floor that the machine's ceilings set", rows, axis)
    logs = {name: math.log10(row["seconds"]) for name, row in results.items()}
    low, high = math.floor(min(logs.values())), math.floor(max(logs.values())) + 1
    axis = [((i - low) / (high - low), time_text(10.0**i * 1.0000001)) for i in range(low, high + 1)]
    rows = [
        (name, 0.0, (logs[name] - low) / (high - low), time_text(row["seconds"]), "#4477aa")
        for name, row in results.items()
    ]
    return text, svg("Time, on a logarithmic axis", rows, axis)


def compare(before, after):
    """(text, SVG): bars to the left of 1 are faster, to the right slower."""
    ratios = {name: after[name]["seconds"] / before[name]["seconds"] for name in before if name in after}
    if not ratios:
        raise ReportError("the two have no benchmark in common")
    mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values()))
    lines = [
        f"{name:<60} {time_text(before[name]['seconds']):>10} {time_text(after[name]['seconds']):>10} {ratio:8.3f}"
        for name, ratio in ratios.items()
    ]
    lines += [f"{name:<60} only before" for name in before if name not in after]
    lines += [f"{name:<60} only after" for name in after if name not in before]
    lines.append(f"{'geometric mean of ' + str(len(ratios)):<60} {'':>10} {'':>10} {mean:8.3f}")

    reach = max(0.1, *(abs(math.log2(ratio)) for ratio in ratios.values()))  # of the axis, in octaves to each side
    axis = [(0.0, f"{2**-reach:.2f}"), (0.5, "1"), (1.0, f"{2**reach:.2f}")]
    rows = [
        (name, 0.5, 0.5 + 0.5 * math.log2(ratio) / reach, f"{ratio:.3f}", "#228833" if ratio < 1 else "#cc3311")
        for name, ratio in ratios.items()
    ]
    return "\n".join(lines) + "\n", svg("Time after / before (left of 1: faster)", rows, axis)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    plotting, comparing = commands.add_parser("plot"), commands.add_parser("compare")
    plotting.add_argument("results", nargs="+")
    comparing.add_argument("before")
    comparing.add_argument("after")
    for command in (plotting, comparing):
        command.add_argument("--svg", help="also draw it to this file")
    options = parser.parse_args(arguments)
    try:
        if options.command == "plot":
            text, picture = plot({name: row for path in options.results for name, row in load(path).items()})
        else:
            text, picture = compare(load(options.before), load(options.after))
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    if options.svg:
        Path(options.svg).write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
