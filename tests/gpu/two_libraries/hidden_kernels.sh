#!/bin/bash
# hidden_kernels.sh <nm> <shared library>: no other library can see this one's kernels, nor what launches them.
set -euo pipefail
exported=$("$1" --dynamic --defined-only --demangle "$2")
if ! grep -q _own_kernel <<<"$exported"; then
  echo "FAILED: $2 exports nothing" >&2
  exit 1
fi
if grep -E 'rf::cuda::.*entry<|rf::Cuda::launch<' <<<"$exported"; then
  echo "FAILED: $2 exports these" >&2
  exit 1
fi
