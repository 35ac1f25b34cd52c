#!/usr/bin/env python3
"""peers.py [--only TEXT] [--rounds N] [--threads N] [--out FILE.json]: our CPU kernels and models beside others'.

Runs each case N times in turn, ours (build/release/benchmarks/…, see benchmarks/run.sh) and the others', so that
whatever else the machine does meets all of them; prints a table in Markdown: minimum and median times, ours as a share of
the floor, and the ratio of the medians (above 1: ours is faster). The others are PyTorch, eager and through
torch.compile; OpenBLAS, as NumPy brings it; and llama.cpp. Some cases have none.

Needs `torch` and `numpy`; training steps also need `transformers`, decoding needs `llama-cpp-python` and `gguf` (cases
whose packages are missing are named and left out).

PyTorch gets what it is best at: weights in bf16 are multiplied by activations in bf16 (ours are in fp32), key and value
heads are given repeated where its attention has no kernel for groups. The selective scan is compared with the loop
over time that mamba-ssm has as its reference in pure PyTorch. llama.cpp decodes a model of the same sizes with weights
and cache in bf16; its cache is filled with copies of a prefill's, ours with numbers.
"""

import argparse
import ctypes
import importlib.util
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import weakref
from functools import partial
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "build/release/benchmarks"
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def ours(program, name, threads, repetitions=1):
    """Seconds per iteration of one of our benchmarks, and its share of the floor: lists, one of each per repetition."""
    if not (BENCHMARKS / program).exists():
        sys.exit(f"peers: {BENCHMARKS / program} is missing; build it: cmake --preset release && cmake --build "
                 "--preset release --target benchmarks")
    command = ["taskset", "-c", f"0-{threads - 1}", BENCHMARKS / program, f"--benchmark_filter=^{name}$",
               "--benchmark_format=json", "--benchmark_min_time=0.3", f"--benchmark_repetitions={repetitions}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if not output:
        sys.exit(f"peers: {program} has no benchmark {name}")
    rows = json.loads(output)["benchmarks"]
    rows = [row for row in rows if row["run_type"] == "iteration"]
    return [row["real_time"] * SECONDS[row["time_unit"]] for row in rows], [row["share"] for row in rows]


def seconds_of(call):
    """Seconds per call over at least 0.3 seconds."""
    call()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.3:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def linear(torch, rows, outputs, inputs, dtype, from_memory=False):
    """Products of x with one matrix, or in turn with as many as are more than the caches hold, as ours does then."""
    import torch.nn.functional as functional

    x = torch.randn(rows, inputs, dtype=dtype)
    count = (256 << 20) // (outputs * inputs * dtype.itemsize) + 1 if from_memory else 1
    matrices = [torch.randn(outputs, inputs, dtype=dtype) for _ in range(count)]
    turn = itertools.cycle(matrices)
    calls = {"eager": lambda: functional.linear(x, next(turn))}
    if dtype == torch.float32:
        a, arrays = x.numpy(), itertools.cycle([matrix.numpy().T for matrix in matrices])
        calls["openblas"] = lambda: a @ next(arrays)
    return calls


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
    forward = {"eager": model, "compiled": torch.compile(model)}

    def step(kind):
        optimizer.zero_grad(set_to_none=True)
        forward[kind](input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return {kind: partial(step, kind) for kind in forward}


# As benchmarks/model.cpp has them, by the number that names them there.
MODELS = {
    0: {"vocabulary": 151936, "layers": 24, "d_model": 896, "heads": 14, "groups": 2, "d_ff": 4864},  # Qwen2 0.5B
    1: {"vocabulary": 128256, "layers": 16, "d_model": 2048, "heads": 32, "groups": 8, "d_ff": 8192},  # Llama 3.2 1B
}


def write_gguf(path, vocabulary, layers, d_model, heads, groups, d_ff):
    """A Llama of these sizes with heads of 64 and random weights in bf16, in llama.cpp's format."""
    import gguf
    import numpy

    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")
    writer.add_context_length(1 << 17)
    writer.add_embedding_length(d_model)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(d_ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_dimension_count(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)

    def matrix(name, rows, columns):
        bits = (random.standard_normal((rows, columns), dtype=numpy.float32) * 0.02).view(numpy.uint32)
        bf16 = (bits >> 16).astype(numpy.uint16).view(numpy.uint8)
        writer.add_tensor(f"{name}.weight", bf16, raw_dtype=gguf.GGMLQuantizationType.BF16)

    def gain(name):
        writer.add_tensor(f"{name}.weight", numpy.ones(d_model, dtype=numpy.float32))

    matrix("token_embd", vocabulary, d_model)
    gain("output_norm")
    for layer in range(layers):
        block = f"blk.{layer}."
        gain(block + "attn_norm")
        matrix(block + "attn_q", heads * 64, d_model)
        matrix(block + "attn_k", groups * 64, d_model)
        matrix(block + "attn_v", groups * 64, d_model)
        matrix(block + "attn_output", d_model, heads * 64)
        gain(block + "ffn_norm")
        matrix(block + "ffn_gate", d_ff, d_model)
        matrix(block + "ffn_up", d_ff, d_model)
        matrix(block + "ffn_down", d_model, d_ff)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp_decode(model, context, threads):
    """A call that decodes one token behind `context` others, logits included."""
    import gguf
    from llama_cpp import llama_cpp as llama

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    llama.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write_gguf(path, **MODELS[model])
        parameters = llama.llama_model_default_params()
        parameters.use_mmap = False
        weights = llama.llama_model_load_from_file(path.encode(), parameters)
    if not weights:
        sys.exit("peers: llama.cpp refuses the model that peers.py wrote for it")
    options = llama.llama_context_default_params()
    options.n_ctx = context + 64
    options.n_seq_max, options.kv_unified = 2, True
    options.n_threads = options.n_threads_batch = threads
    options.type_k = options.type_v = int(gguf.GGMLQuantizationType.BF16)
    run = llama.llama_init_from_model(weights, options)
    if not run:
        sys.exit("peers: llama.cpp has no context of that size")

    def feed(tokens):
        array = (llama.llama_token * len(tokens))(*tokens)  # the batch only points at it
        if llama.llama_decode(run, llama.llama_batch_get_one(array, len(tokens))) != 0:
            sys.exit("peers: llama_decode failed")

    # One piece of the context is computed, the others are copies of it, at the same positions: a prefill of 64k tokens
    # takes hours. The next token sees them all.
    piece = 512
    feed([1000 + i for i in range(piece)])
    memory = llama.llama_get_memory(run)
    size = llama.llama_state_seq_get_size(run, 0)
    state = (ctypes.c_uint8 * size)()
    llama.llama_state_seq_get_data(run, state, size, 0)
    for _ in range(context // piece - 1):
        if llama.llama_state_seq_set_data(run, state, size, 1) == 0:
            sys.exit("peers: llama.cpp takes no copy of a piece of its context")
        llama.llama_memory_seq_cp(memory, 1, 0, -1, -1)
        llama.llama_memory_seq_rm(memory, 1, -1, -1)

    def decode():
        feed([1000])
        llama.llama_memory_seq_rm(memory, 0, piece, -1)

    weakref.finalize(decode, lambda: (llama.llama_free(run), llama.llama_model_free(weights)))
    return {"llama.cpp": decode}


def cases(torch, threads):
    """(program, our benchmark's name, packages it needs, function that makes the others' calls by name)."""

    def plain(make, *arguments, compiled=True, **options):
        def calls():
            call, tensors = make(torch, *arguments, **options)
            out = {"eager": lambda: call(*tensors)}
            if compiled:
                compiled_call = torch.compile(call)
                out["compiled"] = lambda: compiled_call(*tensors)
            return out

        return calls

    for rows, outputs, inputs in ((128, 896, 896), (512, 4864, 896), (512, 896, 4864), (2048, 896, 896), (128, 2048, 2048),
                                  (512, 8192, 2048), (4096, 2048, 8192)):
        yield ("gemm", f"linear_forward/rows:{rows}/out:{outputs}/in:{inputs}/real_time", (),
               partial(linear, torch, rows, outputs, inputs, torch.float32))
    for rows, outputs, inputs in [(rows, 4864, 896) for rows in (1, 8, 32, 128, 512)] + [(128, 8192, 2048)]:
        for name, dtype in (("float", torch.float32), ("rf::bf16", torch.bfloat16)):
            yield ("gemm", f"packed<{name}>/rows:{rows}/out:{outputs}/in:{inputs}/real_time", (),
                   partial(linear, torch, rows, outputs, inputs, dtype, from_memory=True))
    for d_head, tokens, groups, queries in ((64, 512, 2, 7), (64, 1024, 14, 1), (64, 4096, 4, 1), (64, 4096, 2, 7),
                                            (64, 16384, 2, 1), (128, 512, 2, 7), (128, 1024, 8, 4), (128, 4096, 2, 1),
                                            (128, 16384, 2, 1)):
        yield ("attention", f"forward<{d_head}>/tokens:{tokens}/groups:{groups}/queries:{queries}/sequences:1/"
               "past_or_window:0/real_time", (), plain(attention, tokens, groups, queries, 1, d_head))
    for d_head, tokens, groups, queries, sequences in ((64, 512, 4, 2, 4), (64, 2048, 2, 7, 1), (64, 4096, 2, 1, 1),
                                                       (128, 2048, 2, 1, 1)):
        yield ("attention", f"backward<{d_head}>/tokens:{tokens}/groups:{groups}/queries:{queries}/"
               f"sequences:{sequences}/past_or_window:0/real_time", (),
               plain(attention, tokens, groups, queries, sequences, d_head, compiled=False, backward=True))
    for channels, tokens in ((64, 1024), (64, 65536), (512, 4096), (2048, 1024)):
        yield ("selective_scan", f"scan_forward<16>/{channels}/{tokens}/real_time", (),
               plain(selective_scan, channels, tokens, compiled=False))
        yield ("selective_scan", f"scan_backward<16>/{channels}/{tokens}/real_time", (), dict)
    # The same channels and states: the scan and the SSD recurrence.
    yield ("selective_scan", "scan_forward<64>/512/2048/real_time", (), dict)
    yield ("ssd", "forward<64>/heads:8/tokens:2048/states:1/real_time", (), dict)
    for d_model, layers in ((384, 6), (768, 12)):
        yield ("model", f"training_step/d_model:{d_model}/layers:{layers}/replaced:0/real_time", ("transformers",),
               partial(training_step, torch, d_model, layers))
        yield ("model", f"training_step/d_model:{d_model}/layers:{layers}/replaced:50/real_time", (), dict)
    for model, context in ((0, 1 << 10), (0, 1 << 13), (0, 1 << 16), (1, 1 << 10), (1, 1 << 13), (1, 1 << 16)):
        yield ("model", f"decode/size:{model}/context:{context}/sequences:1/replaced:0/real_time", ("llama_cpp", "gguf"),
               partial(llama_cpp_decode, model, context, threads))
    for model, context, sequences, replaced in ((0, 10, 8, 0), (0, 13, 8, 0), (1, 10, 8, 0), (0, 10, 32, 0), (0, 13, 32, 0),
                                                (1, 10, 32, 0), (2, 16, 1, 0), (2, 16, 1, 90), (0, 16, 8, 0),
                                                (0, 16, 8, 90)):
        yield ("model", f"decode/size:{model}/context:{1 << context}/sequences:{sequences}/replaced:{replaced}/real_time",
               (), dict)
    for model, context in ((0, 10), (0, 13), (0, 16), (1, 10)):
        yield "model", f"decode_int8/size:{model}/context:{1 << context}/sequences:1/replaced:0/real_time", (), dict
    yield "start_up", "start_up/iterations:15/manual_time", (), dict


def measure(program, name, calls, rounds, threads):
    """Prints a case's row of the table and returns its numbers."""
    times, shares = {"ours": []}, []
    # With nobody to take turns with, one run of the program does it: some take longer to prepare than to measure.
    for _ in range(rounds if calls else 1):
        seconds, share = ours(program, name, threads, 1 if calls else rounds)
        times["ours"] += seconds
        shares += share
        for peer, call in calls.items():
            times.setdefault(peer, []).append(seconds_of(call))
    result = {"name": name, "share": statistics.median(shares)}
    for who, all_times in times.items():
        result[who] = {"min": min(all_times), "median": statistics.median(all_times)}

    def cell(who):
        return f"{1e3 * result[who]['min']:.3g} / {1e3 * result[who]['median']:.3g} ms"

    others = "; ".join(f"{who} {cell(who)}: **{result[who]['median'] / result['ours']['median']:.2f}**" for who in calls)
    print(f"| {program} {name.removesuffix('/real_time')} | {cell('ours')} | {result['share']:.0%} | {others} |", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", help="file for the numbers, as JSON")
    arguments = parser.parse_args()
    # Before NumPy is loaded: its OpenBLAS takes every processor otherwise.
    os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)
    try:
        import torch
    except ImportError:
        sys.exit("peers: PyTorch is not installed")
    torch.set_num_threads(arguments.threads)
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads; minimum / median of {arguments.rounds} rounds\n\n"
          "| case | ours | share of the floor | others: how many times ours |\n|---|---|---|---|")
    results = []
    for program, name, packages, calls in cases(torch, arguments.threads):
        if arguments.only not in name:
            continue
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name}: left out, as {' and '.join(missing)} is not installed")
            continue
        results.append(measure(program, name, calls(), arguments.rounds, arguments.threads))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
