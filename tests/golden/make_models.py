#!/usr/bin/env python3
"""Writes tests/golden/models: small random checkpoints of every architecture that config.json may name, as
`transformers` saves them, and what it computes with them:

  <case>/config.json, model*.safetensors   the checkpoint (bf16, so that fp32 programs load it exactly)
  <case>/expected.safetensors   (hybrids: tokens, all of them random, and logits only)
      tokens        (40) int64: a prompt of 24, then what greedy decoding in fp32 made of it
      logits        (40, vocabulary) float32: of every token, in fp32
      logits_bf16   (40, vocabulary) float32: the same computed in bf16 and widened
      loss, gradient.<tensor>   of the mean cross entropy of tokens[1:], fp32 (cases with gradients only)

Usage:  pip install -r <(sed -n 's/^# pin: //p' tests/golden/make_models.py)
        python tests/golden/make_models.py [folder]
Writes the same bytes again, given these versions and the same kind of CPU.
"""

# pin: torch==2.15.0
# pin: transformers==4.57.1
# pin: safetensors==0.8.0
# pin: numpy==2.4.6

import importlib.metadata
import json
import pathlib
import re
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))
from hybrid_in_transformers import load_hybrid, make_hybrid  # noqa: E402

PROMPT, DECODED = 24, 16

COMMON = dict(vocab_size=131, num_hidden_layers=2, hidden_size=32, intermediate_size=48,
              max_position_embeddings=64)


def heads(query, groups, width):
    return dict(num_attention_heads=query, num_key_value_heads=groups, head_dim=width)


# Numbers that Falcon-H1 multiplies with, none of them 1 or another's.
MULTIPLIERS = dict(embedding_multiplier=2.5, lm_head_multiplier=0.4, attention_in_multiplier=1.3,
                   key_multiplier=0.6, attention_out_multiplier=0.8, ssm_in_multiplier=1.25,
                   ssm_multipliers=[0.7, 0.9, 1.2, 0.5, 1.4], ssm_out_multiplier=0.35,
                   mlp_multipliers=[0.95, 0.65])


# name: (config class, its arguments, options)
CASES = {
    "llama": (transformers.LlamaConfig,
              dict(**heads(7, 1, 64), tie_word_embeddings=False, rope_theta=10000.0), dict(gradients=True)),
    "llama3_rope": (transformers.LlamaConfig,
                    dict(**heads(2, 2, 128), tie_word_embeddings=True, rope_theta=500000.0,
                         rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                           high_freq_factor=4.0, original_max_position_embeddings=16)), {}),
    "linear_rope": (transformers.LlamaConfig,
                    dict(**heads(3, 3, 16), rope_scaling=dict(rope_type="linear", factor=2.5)), {}),
    "yarn_rope": (transformers.LlamaConfig,
                  dict(**heads(4, 2, 32), rope_scaling=dict(rope_type="yarn", factor=4.0,
                                                            original_max_position_embeddings=16)), {}),
    "llama_shards_fp16": (transformers.LlamaConfig, dict(**heads(2, 1, 96)),
                          dict(dtype=torch.float16, max_shard_size="30KB")),
    "mistral_window": (transformers.MistralConfig, dict(**heads(4, 2, 80), sliding_window=8), {}),
    "mistral": (transformers.MistralConfig, dict(**heads(2, 2, 32), sliding_window=None), {}),
    "qwen2": (transformers.Qwen2Config,
              dict(**heads(7, 1, 64), tie_word_embeddings=True, rope_theta=1000000.0), dict(gradients=True)),
    "qwen2_window": (transformers.Qwen2Config,
                     dict(num_attention_heads=2, num_key_value_heads=1, use_sliding_window=True,
                          sliding_window=5, max_window_layers=1), {}),
    "qwen3": (transformers.Qwen3Config, dict(**heads(2, 1, 128), tie_word_embeddings=True), {}),
    "qwen3_wide": (transformers.Qwen3Config, dict(**heads(1, 1, 256), num_hidden_layers=1), {}),
    "mamba": (transformers.MambaConfig, dict(intermediate_size=64), dict(cache=False)),
    "mamba_wide": (transformers.MambaConfig, dict(hidden_size=72, intermediate_size=144, num_hidden_layers=1,
                                                  tie_word_embeddings=False), dict(cache=False)),
    "mamba2": (transformers.Mamba2Config, dict(intermediate_size=64, num_heads=4, head_dim=16, n_groups=1,
                                               chunk_size=16), dict(cache=False)),
    "mamba2_groups": (transformers.Mamba2Config,
                      dict(hidden_size=48, intermediate_size=96, num_heads=6, head_dim=16, n_groups=3,
                           state_size=48, conv_kernel=3, chunk_size=16, time_step_limit=(0.3, 1.1),
                           layer_norm_epsilon=1e-3),
                      dict(cache=False, gradients=True)),
    "falcon_h1": (transformers.FalconH1Config,
                  dict(**heads(4, 2, 16), **MULTIPLIERS, mamba_d_ssm=96, mamba_n_heads=6, mamba_d_head=16,
                       mamba_n_groups=1, mamba_d_state=16, mamba_chunk_size=16), dict(cache=False)),
    "falcon_h1_tied": (transformers.FalconH1Config,
                       dict(**heads(2, 1, 16), **MULTIPLIERS, num_hidden_layers=1, intermediate_size=24,
                            mamba_d_ssm=128, mamba_n_heads=8, mamba_n_groups=2, mamba_d_state=16,
                            mamba_chunk_size=16, tie_word_embeddings=True, pad_token_id=None),
                       dict(cache=False, gradients=True)),
}


# The same of converted models: name: (config class, its arguments, kinds, kind of every KV group per layer).
# examples/hybrid_in_transformers.py computes them, in fp32.
ATTENTION, MAMBA, MAMBA2 = (dict(mixer=mixer, precision="bf16") for mixer in ("attention", "mamba", "mamba2"))
STREAMING = dict(mixer="streaming", precision="bf16", options=dict(sink=2, window=6))
HYBRIDS = {
    "hybrid_llama": (transformers.LlamaConfig, heads(8, 4, 16), [ATTENTION, STREAMING, MAMBA, MAMBA2],
                     [[0, 2, 3, 1], [2, 3, 3, 2]]),
    "hybrid_qwen2": (transformers.Qwen2Config, dict(**heads(3, 3, 16), tie_word_embeddings=True),
                     [dict(mixer="attention_qkv_bias", precision="bf16"), MAMBA], [[0, 1, 0], [1, 0, 1]]),
    "hybrid_qwen3": (transformers.Qwen3Config, heads(6, 2, 16), [ATTENTION, MAMBA], [[1, 0], [0, 1]]),
}


def check_versions():
    for package, version in re.findall(r"^# pin: (\S+)==(\S+)$", pathlib.Path(__file__).read_text(), re.M):
        found = importlib.metadata.version(package)
        if found.split("+")[0] != version:
            sys.exit(f"{package} is {found}; the golden files are made by {version}")


def randomise(model, generator):
    """Weights that spread logits and attention, gains and biases that are not their defaults."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 2 and "embed" not in name:
                parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.5 * noise)


def load(case, dtype):
    """As a user does: casting a model would round its rotary frequencies too."""
    return transformers.AutoModelForCausalLM.from_pretrained(case, dtype=dtype,
                                                             attn_implementation="eager").eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens[None], use_cache=False).logits[0].float()


def decode(model, prompt, cached):
    """Greedy, one token at a time through the cache: what prefill and decode must agree with."""
    if not cached:  # Mamba's, Mamba-2's and Falcon-H1's are not this one
        for _ in range(DECODED):
            prompt = torch.cat([prompt, logits_of(model, prompt)[-1].argmax()[None]])
        return prompt, logits_of(model, prompt)
    tokens, cache, rows = prompt, None, []
    with torch.no_grad():
        for step in range(DECODED + 1):
            new = tokens if step == 0 else tokens[-1:]
            out = model(new[None], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0].float())
            if step < DECODED:
                tokens = torch.cat([tokens, rows[-1][-1].argmax()[None]])
    return tokens, torch.cat(rows)


def expected_of(model, tokens, logits, gradients):
    expected = dict(tokens=tokens, logits=logits)
    if gradients:
        model.zero_grad()
        out = model(tokens[None], labels=tokens[None], use_cache=False)
        out.loss.backward()
        expected["loss"] = out.loss.detach()
        for name, parameter in model.named_parameters():
            expected["gradient." + name] = parameter.grad.detach().clone()
    return expected


def make_case(folder, name, config_class, arguments, options, seed):
    generator = torch.Generator().manual_seed(seed)
    config = config_class(**{**COMMON, **arguments}, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(model, generator)
    case = folder / name
    shutil.rmtree(case, ignore_errors=True)
    model.to(options.get("dtype", torch.bfloat16)).save_pretrained(case, max_shard_size=options.get("max_shard_size", "5GB"))
    (case / "generation_config.json").unlink(missing_ok=True)

    model = load(case, torch.float32)
    prompt = torch.randint(0, config.vocab_size, (PROMPT,), generator=generator)
    tokens, decoded = decode(model, prompt, options.get("cache", True))
    logits = logits_of(model, tokens)
    scale = logits.abs().max()
    assert (decoded - logits).abs().max() < 2e-5 * scale, f"{name}: cache and no cache disagree"
    expected = expected_of(model, tokens, logits, options.get("gradients", False))
    expected["logits_bf16"] = logits_of(load(case, torch.bfloat16), tokens)
    save_file({key: value.contiguous() for key, value in expected.items()}, case / "expected.safetensors")
    print(f"{name:20} logits up to {scale:.1f}, bf16 off by "
          f"{(expected['logits_bf16'] - logits).abs().max():.3f}")


def make_hybrid_case(folder, name, config_class, arguments, kinds, layers, seed):
    generator = torch.Generator().manual_seed(seed)
    config = config_class(**{**COMMON, **arguments}, attn_implementation="eager")
    model = make_hybrid(config, kinds, layers)
    randomise(model, generator)
    tensors = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()
               if not (config.tie_word_embeddings and key == "lm_head.weight")}
    case = folder / name
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir(parents=True)
    save_file(tensors, case / "model.safetensors", metadata=dict(format="pt"))
    section = dict(format=1, kinds=kinds, layers=layers)
    document = {**config.to_dict(), "architectures": [type(model).__name__], "dtype": "bfloat16",
                "recurformer": section}
    (case / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    tokens = torch.randint(0, config.vocab_size, (PROMPT + DECODED,), generator=generator)
    logits = logits_of(load_hybrid(case), tokens)
    save_file(dict(tokens=tokens, logits=logits.contiguous()), case / "expected.safetensors")
    print(f"{name:20} logits up to {logits.abs().max():.1f}")


def main():
    check_versions()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "models")
    for seed, (name, (config_class, arguments, options)) in enumerate(CASES.items()):
        make_case(folder, name, config_class, arguments, options, seed)
    for seed, (name, case) in enumerate(HYBRIDS.items()):
        make_hybrid_case(folder, name, *case, 100 + seed)


if __name__ == "__main__":
    main()
