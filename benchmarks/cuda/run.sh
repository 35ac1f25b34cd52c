#!/bin/bash
# benchmarks/cuda/run.sh [--binary FILE] [--out FOLDER] [Google Benchmark's options]
#
# Times the CUDA backend and whatever of its peers is importable on this machine's GPU, in one run, and writes
# FOLDER/<gpu>-<date>.json (FOLDER: benchmarks/results). The binary may come from another machine; the commit it
# was built from is in the file. Ends with the binary's 77 where there is no GPU.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
binary=$root/build/release/benchmarks/cuda/benchmark_cuda
out=$root/benchmarks/results
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    *) break ;;
  esac
done
if [ ! -x "$binary" ]; then
  echo "$binary: not there. Build it with -DRECURFORMER_CUDA=ON and --target" \
    "benchmark_cuda, or name it with --binary." >&2
  exit 2
fi

# cuBLAS as Python packages bring it, where the system has none.
packages=$(python3 -c 'import importlib.util, glob, os
spec = importlib.util.find_spec("nvidia")
for folder in (spec.submodule_search_locations if spec else []):
    print(":".join(sorted({os.path.dirname(f) for f in glob.glob(folder + "/*/lib/libcublas.so.*")})))' 2>/dev/null || true)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH-}${packages:+:$packages}

mkdir -p "$out"
part=$(mktemp "$out/part.XXXXXX")
trap 'rm -f "$part"' EXIT
"$binary" --benchmark_out="$part" --benchmark_out_format=json "$@"
if command -v python3 >/dev/null; then
  python3 "$root/benchmarks/cuda/peers.py" "$part"
else
  echo "python3 is missing: no peers measured" >&2
fi
gpu=$(sed -n 's/^ *"gpu": "\(.*\)".*/\1/p' "$part" | head -1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
result=$out/$gpu-$(date -u +%F).json
mv "$part" "$result"
chmod 644 "$result"
echo "$result"
