"""Tests of benchmarks/report.py:  python3 tests/benchmarks/report.py"""

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

sys.dont_write_bytecode = True  # the sources' folder is not ours to write to
ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)


def row(name, time, unit="us", **more):
    return {"name": name, "run_type": "iteration", "real_time": time, "cpu_time": 0.0, "time_unit": unit, **more}


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name, *rows):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"context": {}, "benchmarks": rows}))
        return str(path)

    def run_report(self, *arguments):
        """(exit code, standard output, standard error)"""
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = report.main(arguments)
        return code, out.getvalue(), errors.getvalue()

    def bars(self, picture):
        """Widths of a drawing's bars; the first rectangle is the background."""
        root = xml.etree.ElementTree.parse(picture).getroot()
        return [float(bar.get("width")) for bar in list(root.iter("{http://www.w3.org/2000/svg}rect"))[1:]]

    def test_shares_are_bars_of_the_floor(self):
        results = self.file("a.json", row("half<float>", 2, "ms", share=0.5), row("all", 3, share=1.0))
        code, out, _ = self.run_report("plot", results, "--svg", str(self.folder / "a.svg"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"half<float> +2 ms +50\.0 % of the floor\n")
        self.assertEqual(self.bars(self.folder / "a.svg"), [report.BARS / 2, report.BARS])

    def test_times_without_floors_and_the_median_of_repetitions(self):
        results = self.file(
            "a.json",
            *(row("x", time) for time in (9, 2, 3)),
            {**row("x_mean", 4.7), "run_type": "aggregate"},
            row("y", 1, "s"),
        )
        code, out, _ = self.run_report("plot", results, "--svg", str(self.folder / "a.svg"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^x +3 µs\ny +1 s\n$")
        self.assertEqual(len(self.bars(self.folder / "a.svg")), 2)

    def test_ratios_of_two_folders(self):
        self.file("before/gemm.json", row("x", 4), row("y", 1, "ms"))
        self.file("before/ssd.json", row("gone", 1))
        self.file("after/gemm.json", row("x", 1), row("y", 2000), row("new", 1))
        picture = self.folder / "ratio.svg"
        code, out, _ = self.run_report(
            "compare", str(self.folder / "before"), str(self.folder / "after"), "--svg", str(picture)
        )
        self.assertEqual(code, 0)
        self.assertRegex(out, r"x +4 µs +1 µs +0\.250\n")
        self.assertRegex(out, r"y +1 ms +2 ms +2\.000\n")
        self.assertRegex(out, r"gone +only before\nnew +only after\n")
        self.assertRegex(out, r"geometric mean of 2 +0\.707\n")
        self.assertEqual(self.bars(picture), [report.BARS / 2, report.BARS / 4])

    def test_failed_benchmarks_are_said_and_left_out(self):
        results = self.file("a.json", row("x", 1), row("y", 0, error_occurred=True, error_message="no memory"))
        code, out, errors = self.run_report("plot", results)
        self.assertEqual(code, 0)
        self.assertNotIn("y", out.split())
        self.assertIn("y failed: no memory", errors)

    def test_what_cannot_be_read(self):
        good, other = self.file("good.json", row("x", 1)), self.file("other.json", row("y", 1))
        (self.folder / "text.json").write_text("{")
        (self.folder / "list.json").write_text("[1]")
        (self.folder / "empty").mkdir()
        for arguments, message in (
            (["plot", str(self.folder / "missing.json")], "missing.json: No such file"),
            (["plot", str(self.folder / "text.json")], "text.json: not a result of Google Benchmark"),
            (["plot", str(self.folder / "list.json")], "list.json: not a result of Google Benchmark"),
            (["plot", str(self.folder / "empty")], "no *.json files"),
            (["plot", self.file("none.json")], "none.json: no benchmark has a result"),
            (["compare", good, other], "no benchmark in common"),
        ):
            code, _, errors = self.run_report(*arguments)
            self.assertEqual(code, 1)
            self.assertIn(message, errors)


if __name__ == "__main__":
    unittest.main()
