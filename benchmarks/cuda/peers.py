#!/usr/bin/env python3
"""peers.py RESULTS.json: measures other implementations at the shapes of benchmark_cuda's results.

Reads the file that benchmark_cuda wrote with --benchmark_out, runs what is importable here (PyTorch's attention with
its flash and cuDNN back ends and compiled to Triton, mamba-ssm's kernels, cuBLAS through torch) on the same GPU at the
same shapes, and adds rows of the same layout to the file, named "<peer>/<our benchmark>". Rates and shares count the
same work as ours. Whatever is missing is said, and is not an error.

The recurrences are not quite the same: Mamba's of ours includes the convolution and the projections to Δ, B and C, of
which mamba-ssm's scan is given the results; B and C are there per sequence, with us per head.
"""

import json
import re
import statistics
import sys

WARM_UPS, REPETITIONS, ITERATIONS = 3, 5, 20
TRITON_TOKENS = 16384  # compiling takes longer than measuring: one length only


def say(message):
    print(f"peers: {message}", file=sys.stderr)


class Timer:
    """Medians of the time between CUDA events, the L2 cache overwritten before each call."""

    def __init__(self, torch):
        self.torch = torch
        size = 2 * torch.cuda.get_device_properties(0).L2_cache_size
        self.cache = torch.empty(size, dtype=torch.int8, device="cuda")

    def seconds(self, call):
        for _ in range(WARM_UPS):
            call()
        means = []
        for _ in range(REPETITIONS):
            total = 0.0
            for iteration in range(ITERATIONS):
                self.cache.fill_(iteration)
                start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                stop.record()
                stop.synchronize()
                total += 1e-3 * start.elapsed_time(stop)
            means.append(total / ITERATIONS)
        return statistics.median(means)


def attention_peers(torch, d_head, new_tokens, keys, groups, queries, sequences):
    """Calls by name. Queries at the end of the keys, so that one token sees all of them."""
    import torch.nn.functional as functional
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def tensor(heads, length):
        return torch.randn(sequences, heads, length, d_head, dtype=torch.bfloat16, device="cuda")

    q, k, v = tensor(groups * queries, new_tokens), tensor(groups, keys), tensor(groups, keys)
    causal = new_tokens > 1

    def with_backend(backend):
        def call():
            with sdpa_kernel(backend):
                functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=queries > 1)

        return call

    calls = {
        "torch_flash": with_backend(SDPBackend.FLASH_ATTENTION),
        "torch_cudnn": with_backend(SDPBackend.CUDNN_ATTENTION),
    }
    if new_tokens == TRITON_TOKENS:
        calls["torch_triton"] = triton_attention(torch, q, k, v, queries > 1)
    return calls


def triton_attention(torch, q, k, v, grouped):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = q.shape[2]
    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask, enable_gqa=grouped)


def prefill_peers(torch, d_head, sizes):
    return attention_peers(torch, d_head, sizes["tokens"], sizes["tokens"], sizes["groups"], sizes["queries"],
                           sizes["sequences"])


def decode_peers(torch, d_head, sizes):
    return attention_peers(torch, d_head, 1, sizes["keys"], sizes["groups"], sizes["queries"], sizes["sequences"])


def scan_peers(torch, d_head, sizes):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    batch, channels, length, states = sizes["sequences"], sizes["channels"], sizes["tokens"], 16

    def tensor(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, dtype=dtype, device="cuda")

    u, delta, z = (tensor(batch, channels, length) for _ in range(3))
    b, c = (tensor(batch, 1, states, length) for _ in range(2))
    a = -torch.rand(channels, states, device="cuda") - 0.1
    skip, bias = tensor(channels, dtype=torch.float32), tensor(channels, dtype=torch.float32)
    return {"mamba_ssm": lambda: selective_scan_fn(u, delta, a, b, c, skip, z, bias, delta_softplus=True)}


def ssd_peers(torch, d_head, sizes):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    batch, length, groups = sizes["sequences"], sizes["tokens"], sizes["groups"]
    heads = groups * sizes["queries"]

    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")

    x, z = (tensor(batch, length, heads, d_head) for _ in range(2))
    b, c = (tensor(batch, length, groups, d_head) for _ in range(2))
    dt = tensor(batch, length, heads)
    a, skip = -torch.rand(heads, device="cuda") - 0.1, torch.randn(heads, device="cuda")
    return {
        "mamba_ssm": lambda: mamba_chunk_scan_combined(x, dt, a, b, c, chunk_size=256, D=skip, z=z, dt_softplus=True)
    }


def linear_peers(torch, _, sizes):
    x = torch.randn(sizes["rows"], sizes["in"], dtype=torch.bfloat16, device="cuda")
    w = torch.randn(sizes["out"], sizes["in"], dtype=torch.bfloat16, device="cuda")
    return {"torch_cublas": lambda: torch.matmul(x, w.T)}


def mlp_peers(torch, _, sizes):
    import torch.nn.functional as functional

    width, inner = sizes["d_model"], sizes["d_ff"]
    x = torch.randn(sizes["rows"], width, dtype=torch.bfloat16, device="cuda")
    gain = torch.ones(width, dtype=torch.bfloat16, device="cuda")
    gate_up = torch.randn(2 * inner, width, dtype=torch.bfloat16, device="cuda") * width**-0.5
    down = torch.randn(width, inner, dtype=torch.bfloat16, device="cuda") * inner**-0.5

    def call():
        gate, up = functional.linear(functional.rms_norm(x, (width,), gain), gate_up).chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, down)

    return {"torch": call}


PEERS = {
    "attention_prefill": prefill_peers,
    "attention_decode": decode_peers,
    "selective_scan": scan_peers,
    "ssd": ssd_peers,
    "linear": linear_peers,
    "mlp": mlp_peers,
}


def parse(run_name):
    """ "ssd<64>/tokens:1024/…" as ("ssd", 64, {"tokens": 1024, …}); d_head is 0 where the name has none."""
    parts = run_name.split("/")
    family, d_head = re.fullmatch(r"(\w+)(?:<(\d+)>)?", parts[0]).groups()
    sizes = {}
    for part in parts[1:]:
        key, _, value = part.partition(":")
        if value.isdigit():
            sizes[key] = int(value)
    return family, int(d_head or 0), sizes


def peer_row(ours, peer, seconds):
    """Our row with the peer's time. Its rates and share are ours times the ratio of the times."""
    unit = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1}[ours["time_unit"]]
    row = {key: value for key, value in ours.items() if isinstance(value, (str, int)) or key.endswith("_time")}
    row["name"] = f"{peer}/{ours['name']}"
    row["run_name"] = f"{peer}/{ours['run_name']}"
    row["real_time"] = row["cpu_time"] = seconds * unit
    for key in ("TFLOP/s", "GB/s", "share"):
        if key in ours:
            row[key] = ours[key] * ours["real_time"] / row["real_time"]
    return row


def measure_peers(torch, ours, unavailable):
    family, d_head, sizes = parse(ours["run_name"])
    try:
        calls = PEERS[family](torch, d_head, sizes)
    except ImportError as error:
        unavailable.setdefault(str(error), family)
        return []
    except Exception as error:  # out of memory, for one: the other shapes still count
        say(f"{ours['run_name']}: {first_line(error)}")
        return []
    timer, rows = Timer(torch), []
    for peer, call in calls.items():
        try:
            with torch.inference_mode():
                rows.append(peer_row(ours, peer, timer.seconds(call)))
        except Exception as error:  # a back end that does not do this shape
            say(f"{peer}/{ours['run_name']}: {first_line(error)}")
    return rows


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def torch_with_gpu():
    try:
        import torch
    except ImportError as error:
        return None, f"PyTorch is missing ({error})"
    if not torch.cuda.is_available():
        return None, "PyTorch sees no GPU"
    return torch, ""


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    torch, reason = torch_with_gpu()
    if torch is None:
        say(f"{reason}: nothing measured")
        return 0
    with open(arguments[0], encoding="utf-8") as file:
        results = json.load(file)
    medians = [
        row
        for row in results["benchmarks"]
        if row.get("aggregate_name") == "median"
        and "error_occurred" not in row
        and re.split("[</]", row["run_name"])[0] in PEERS
    ]
    unavailable = {}
    for ours in medians:
        results["benchmarks"] += measure_peers(torch, ours, unavailable)
        torch.cuda.empty_cache()
    for error, family in unavailable.items():
        say(f"{family}: {error}")
    results["context"]["peers_torch"] = torch.__version__
    results["context"]["peers_unavailable"] = sorted(unavailable)
    with open(arguments[0], "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
