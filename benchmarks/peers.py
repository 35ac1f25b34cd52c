#!/usr/bin/env python3
"""peers.py [--only TEXT] [--rounds N] [--threads N] [--out FILE.json]: our CPU kernels and models beside PyTorch's.

Runs each case N times in turn, ours (build/release/benchmarks/…, see benchmarks/run.sh) and PyTorch's, eager and
through torch.compile, so that whatever else the machine does meets all of them; prints minimum and median times and
the ratio of the medians (above 1: ours is faster). Needs PyTorch; training steps also need `transformers`.

PyTorch gets what it is best at: weights in bf16 are multiplied by activations in bf16 (ours are in fp32), key and value
heads are given repeated where its attention has no kernel for groups. The selective scan is compared with the loop
over time that mamba-ssm has as its reference in pure PyTorch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "build/release/benchmarks"
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def ours(program, name, threads):
    """Seconds per iteration of one of our benchmarks, and its share of the floor."""
    command = [BENCHMARKS / program, f"--benchmark_filter=^{name}$", "--benchmark_format=json",
               "--benchmark_min_time=0.3"]
    command = ["taskset", "-c", f"0-{threads - 1}", *command]
    try:
        rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["benchmarks"]
    except FileNotFoundError:
        sys.exit(f"peers: {BENCHMARKS / program} is missing; build it: cmake --preset release && cmake --build "
                 "--preset release --target benchmarks")
    return rows[0]["real_time"] * SECONDS[rows[0]["time_unit"]], rows[0]["share"]


def seconds_of(call):
    """Seconds per call over at least 0.3 seconds."""
    call()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.3:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def linear(torch, rows, outputs, inputs, dtype):
    import torch.nn.functional as functional

    x, w = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    return functional.linear, (x, w)


def attention(torch, tokens, groups, queries, sequences, d_head, backward=False):
    import torch.nn.functional as functional

    def heads(count):
        return torch.randn(sequences, count, tokens, d_head, requires_grad=backward)

    q, k, v = heads(groups * queries), heads(groups), heads(groups)
    with torch.no_grad():
        k, v = (one.repeat_interleave(queries, dim=1).requires_grad_(backward) for one in (k, v))

    def forward(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    if not backward:
        return forward, (q, k, v)
    out = forward(q, k, v)
    gradient = torch.randn_like(out)

    def gradients(q, k, v):
        return torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)

    return gradients, (q, k, v)


def selective_scan(torch, channels, tokens, states=16):
    """selective_scan_ref of mamba-ssm, as in section 3.2 of arXiv 2312.00752: one step of all channels at a time."""
    x, delta = torch.randn(channels, tokens), torch.rand(channels, tokens) * 0.3
    a, b, c = -torch.rand(channels, states), torch.randn(states, tokens), torch.randn(states, tokens)

    def scan(x, delta, a, b, c):
        decay = torch.exp(delta[:, :, None] * a[:, None, :])
        added = (delta * x)[:, :, None] * b.t()[None]
        state, out = torch.zeros(channels, states), []
        for t in range(tokens):
            state = decay[:, t] * state + added[:, t]
            out.append(state @ c[:, t])
        return torch.stack(out, dim=1)

    return scan, (x, delta, a, b, c)


def training_step(torch, d_model, layers):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8192, hidden_size=d_model, num_hidden_layers=layers,
                         num_attention_heads=d_model // 64, num_key_value_heads=d_model // 128,
                         intermediate_size=d_model // 32 * 88, max_position_embeddings=512, tie_word_embeddings=True,
                         attn_implementation="sdpa", use_cache=False)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(0, 8192, (8, 512))
    forward = {"eager": model, "compiled": None}

    def step(kind):
        if kind == "compiled" and forward[kind] is None:
            forward[kind] = torch.compile(model)
        optimizer.zero_grad(set_to_none=True)
        forward[kind](input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def cases(torch):
    """(program, our benchmark's name, function that makes PyTorch's calls by name)."""

    def plain(make, *arguments, compiled=True, **options):
        def calls():
            call, tensors = make(torch, *arguments, **options)
            out = {"eager": lambda: call(*tensors)}
            if compiled:
                compiled_call = torch.compile(call)
                out["compiled"] = lambda: compiled_call(*tensors)
            return out

        return calls

    for rows, outputs, inputs in ((128, 896, 896), (512, 4864, 896), (512, 896, 4864), (2048, 896, 896)):
        yield ("gemm", f"linear_forward/rows:{rows}/out:{outputs}/in:{inputs}/real_time",
               plain(linear, rows, outputs, inputs, torch.float32, compiled=False))
    for rows in (1, 8, 32, 128, 512):
        for name, dtype in (("float", torch.float32), ("rf::bf16", torch.bfloat16)):
            yield ("gemm", f"packed<{name}>/rows:{rows}/out:4864/in:896/real_time",
                   plain(linear, rows, 4864, 896, dtype, compiled=False))
    for d_head, tokens, groups, queries in ((64, 1024, 14, 1), (64, 4096, 4, 1), (128, 1024, 8, 4), (128, 4096, 2, 1)):
        yield ("attention", f"forward<{d_head}>/tokens:{tokens}/groups:{groups}/queries:{queries}/sequences:1/"
               "past_or_window:0/real_time", plain(attention, tokens, groups, queries, 1, d_head))
    for d_head, tokens, groups, queries, sequences in ((64, 512, 4, 2, 4), (64, 4096, 2, 1, 1), (128, 2048, 2, 1, 1)):
        yield ("attention", f"backward<{d_head}>/tokens:{tokens}/groups:{groups}/queries:{queries}/"
               f"sequences:{sequences}/past_or_window:0/real_time",
               plain(attention, tokens, groups, queries, sequences, d_head, compiled=False, backward=True))
    for channels, tokens in ((64, 1024), (512, 4096), (2048, 1024)):
        yield ("selective_scan", f"scan_forward/{channels}/{tokens}/real_time",
               plain(selective_scan, channels, tokens, compiled=False))
    for d_model, layers in ((384, 6), (768, 12)):
        def steps(d_model=d_model, layers=layers):
            step = training_step(torch, d_model, layers)
            return {kind: lambda kind=kind: step(kind) for kind in ("eager", "compiled")}

        yield ("model", f"training_step/d_model:{d_model}/layers:{layers}/replaced:0/real_time", steps)


def measure(program, name, calls, rounds, threads):
    """Prints a case's line and returns its numbers."""
    times, share = {"ours": []}, 0.0
    for _ in range(rounds):
        seconds, share_now = ours(program, name, threads)
        times["ours"].append(seconds)
        share = max(share, share_now)
        for peer, call in calls.items():
            times.setdefault(peer, []).append(seconds_of(call))
    result = {"name": name, "share": share}
    median = {who: statistics.median(all_times) for who, all_times in times.items()}
    line = f"{name.removesuffix('/real_time'):<88} ours {1e3 * min(times['ours']):9.3f} / {1e3 * median['ours']:9.3f} ms" \
           f" ({share:4.0%} of the floor)"
    for who, all_times in times.items():
        result[who] = {"min": min(all_times), "median": median[who]}
        if who != "ours":
            line += f"   {who} {1e3 * min(all_times):9.3f} / {1e3 * median[who]:9.3f} ms, x {median[who] / median['ours']:.2f}"
    print(line, flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", help="file for the numbers, as JSON")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("peers: PyTorch is not installed")
    torch.set_num_threads(arguments.threads)
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads; minimum / median of {arguments.rounds} rounds")
    results = []
    for program, name, calls in cases(torch):
        if arguments.only in name:
            results.append(measure(program, name, calls(), arguments.rounds, arguments.threads))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
