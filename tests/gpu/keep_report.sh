#!/bin/bash
# keep_report.sh <report> <command>...: runs the command; what it prints becomes the report, or is shown if it fails.
set -euo pipefail
report=$1
shift
"$@" >"$report.part" 2>&1 || { cat "$report.part"; exit 1; }
mv "$report.part" "$report"
