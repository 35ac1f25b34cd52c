#!/usr/bin/env python3
"""A converted model in Python: `transformers` computes the attention part, the modules below the rest.

    from hybrid_in_transformers import load_hybrid
    model = load_hybrid("runs/hybrid")                      # a folder that recurformer wrote
    logits = model(tokens, use_cache=False).logits          # tokens (batch, length)
    model.generate(tokens, use_cache=False, max_new_tokens=20)

or `python hybrid_in_transformers.py runs/hybrid 1 2 3` for the next token after 1 2 3. Meant to be read and
to check against: whole sequences without padding, no cache, scans one token at a time, gradients by autograd.

A folder is one of Llama, Mistral, Qwen2 or Qwen3 in Hugging Face's form, with a section in config.json:

    "recurformer": {"kinds": [{"mixer": "attention", ...}, {"mixer": "mamba", ...}],
                    "layers": [[0, 1, ...], ...]}           # the kind of every KV group, per layer

Tensors hold the groups whose mixer has them, in order: model.layers.0.self_attn.q_proj.weight has the rows of
the attention groups of layer 0, model.layers.0.mamba.A_log those of its Mamba groups. o_proj keeps all columns.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

D_STATE, D_CONV = 16, 4  # of rf::Mamba<>


def scalars(*shape):
    return nn.Parameter(torch.empty(*shape))


def gate(z):
    return 2 * torch.sigmoid(z)


class MambaHeads(nn.Module):
    """rf::Mamba<>: a selective scan (arXiv 2312.00752) per query head, d_head channels wide."""

    def __init__(self, heads, d_head, d_model):
        super().__init__()
        rank = (d_head + 15) // 16
        rows, columns = heads * d_head, rank + 2 * D_STATE
        self.heads, self.d_head, self.rank = heads, d_head, rank
        self.in_proj_x = nn.Linear(d_model, rows, bias=False)
        self.in_proj_z = nn.Linear(d_model, rows, bias=False)
        self.conv1d = nn.Linear(D_CONV, rows)            # used as weights and biases of a convolution,
        self.x_proj = nn.Linear(d_head, heads * columns)  # and of one product per head
        self.dt_proj = nn.Linear(rank, rows)
        self.A_log, self.D = scalars(rows, D_STATE), scalars(rows)

    def forward(self, hidden):  # (batch, length, d_model) -> (batch, length, heads, d_head)
        batch, length, _ = hidden.shape
        per_head = lambda tensor, *rest: tensor.view(self.heads, *rest)
        x = self.in_proj_x(hidden).transpose(1, 2)
        u = F.conv1d(F.pad(x, (D_CONV - 1, 0)), self.conv1d.weight[:, None], self.conv1d.bias, groups=x.shape[1])
        u = u.transpose(1, 2).view(batch, length, self.heads, self.d_head)
        coefficients = torch.einsum("bthc,hrc->bthr", u, per_head(self.x_proj.weight, -1, self.d_head))
        coefficients = coefficients + per_head(self.x_proj.bias, -1)
        delta, b, c = coefficients.split([self.rank, D_STATE, D_STATE], dim=-1)
        delta = torch.einsum("bthr,hcr->bthc", delta, per_head(self.dt_proj.weight, self.d_head, self.rank))
        delta = F.softplus(delta + per_head(self.dt_proj.bias, self.d_head))
        a = -torch.exp(per_head(self.A_log, self.d_head, D_STATE))
        state, out = hidden.new_zeros(batch, self.heads, self.d_head, D_STATE), []
        for t in range(length):
            state = torch.exp(delta[:, t, ..., None] * a) * state
            state = state + (delta[:, t] * u[:, t])[..., None] * b[:, t, :, None]
            out.append((state * c[:, t, :, None]).sum(-1))
        y = torch.stack(out, dim=1) + per_head(self.D, self.d_head) * u
        return y * gate(self.in_proj_z(hidden)).view_as(y)


class Mamba2Heads(nn.Module):
    """rf::Mamba2<>: state space duality (arXiv 2405.21060), one state per KV group."""

    def __init__(self, groups, queries, d_head, d_model):
        super().__init__()
        self.groups, self.queries, self.d_head = groups, queries, d_head
        heads = groups * queries
        self.q_proj = nn.Linear(d_model, heads * d_head, bias=False)
        self.k_proj = nn.Linear(d_model, groups * d_head, bias=False)
        self.v_proj = nn.Linear(d_model, groups * d_head, bias=False)
        self.z_proj = nn.Linear(d_model, heads * d_head, bias=False)
        self.dt_proj = nn.Linear(d_model, groups, bias=False)
        self.dt_bias, self.A_log = scalars(groups), scalars(groups)
        self.c0, self.c1, self.D = scalars(heads), scalars(heads), scalars(heads * d_head)

    def forward(self, hidden):  # (batch, length, d_model) -> (batch, length, heads, d_head)
        batch, length, _ = hidden.shape
        grouped = lambda tensor, *rest: tensor.view(batch, length, self.groups, *rest)
        q = grouped(self.q_proj(hidden), self.queries, self.d_head)
        k, v = grouped(self.k_proj(hidden), self.d_head), grouped(self.v_proj(hidden), self.d_head)
        delta = F.softplus(self.dt_proj(hidden) + self.dt_bias)
        decay = torch.exp(-delta * torch.exp(self.A_log))
        c0, c1 = (c.view(self.groups, self.queries, 1) for c in (self.c0, self.c1))
        s, r, out = hidden.new_zeros(batch, self.groups, self.d_head, self.d_head), 0, []
        for t in range(length):
            step, kept = delta[:, t, :, None], decay[:, t, :, None]
            s = kept[..., None] * s + step[..., None] * k[:, t, :, :, None] * v[:, t, :, None]
            r = kept * r + step * v[:, t]
            out.append(c0 * r[:, :, None] + c1 * torch.einsum("bgqi,bgij->bgqj", q[:, t], s))
        y = torch.stack(out, dim=1) + self.D.view(self.groups, self.queries, self.d_head) * v[:, :, :, None]
        return (y * gate(self.z_proj(hidden)).view_as(y)).flatten(2, 3)


class HybridHeads(nn.Module):
    """Takes the place of a layer's self_attn, from which it keeps o_proj and, if it has them, its norms."""

    def __init__(self, layer, kinds, kind_of_group, config):
        super().__init__()
        attention, d_model = layer.self_attn, config.hidden_size
        self.kinds, self.kind_of_group = kinds, kind_of_group
        self.d_head = attention.head_dim
        self.queries = config.num_attention_heads // config.num_key_value_heads
        self.o_proj = attention.o_proj
        for norm in ("q_norm", "k_norm"):
            if hasattr(attention, norm):
                setattr(self, norm, getattr(attention, norm))
        self.streams = [g for g, kind in enumerate(kind_of_group) if self.is_attention(kind)]
        if self.streams:
            bias = attention.q_proj.bias is not None
            rows = len(self.streams) * self.d_head
            self.q_proj = nn.Linear(d_model, self.queries * rows, bias=bias)
            self.k_proj = nn.Linear(d_model, rows, bias=bias)
            self.v_proj = nn.Linear(d_model, rows, bias=bias)
        # Their tensors are the layer's, beside self_attn's.
        self.recurrent = []
        for mixer, make in (("mamba", lambda n: MambaHeads(n * self.queries, self.d_head, d_model)),
                            ("mamba2", lambda n: Mamba2Heads(n, self.queries, self.d_head, d_model))):
            groups = [g for g, kind in enumerate(kind_of_group) if kinds[kind]["mixer"] == mixer]
            if groups:
                setattr(layer, mixer, make(len(groups)))
                self.recurrent.append((groups, lambda x, layer=layer, mixer=mixer: getattr(layer, mixer)(x)))

    def is_attention(self, kind):
        return self.kinds[kind]["mixer"].startswith(("attention", "streaming"))

    def mask(self, group, length, device):
        """True where a query (row) sees a key (column)."""
        lag = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        options = self.kinds[self.kind_of_group[group]].get("options", {})
        if self.kinds[self.kind_of_group[group]]["mixer"].startswith("attention"):
            return lag >= 0
        is_sink = torch.arange(length, device=device) < options.get("sink", 4)
        return (lag >= 0) & ((lag < options.get("window", 256)) | is_sink)

    def attend(self, hidden, position_embeddings):  # -> (batch, length, attention groups, queries, d_head)
        batch, length, _ = hidden.shape
        heads = lambda projection: projection(hidden).view(batch, length, -1, self.d_head)
        q, k, v = heads(self.q_proj), heads(self.k_proj), heads(self.v_proj).transpose(1, 2)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *position_embeddings)
        out = []
        for i, group in enumerate(self.streams):
            of_group = slice(i * self.queries, (i + 1) * self.queries)
            out.append(F.scaled_dot_product_attention(q[:, of_group], k[:, i:i + 1], v[:, i:i + 1],
                                                      attn_mask=self.mask(group, length, hidden.device)))
        return torch.stack(out, dim=1).permute(0, 3, 1, 2, 4)

    def forward(self, hidden_states, position_embeddings, past_key_values=None, use_cache=False, **_):
        if past_key_values is not None or use_cache:
            raise ValueError("this loader keeps no cache: pass use_cache=False")
        batch, length, _ = hidden_states.shape
        out = hidden_states.new_zeros(batch, length, len(self.kind_of_group), self.queries, self.d_head)
        if self.streams:
            out[:, :, self.streams] = self.attend(hidden_states, position_embeddings)
        for groups, heads in self.recurrent:
            out[:, :, groups] = heads(hidden_states).view(batch, length, len(groups), self.queries, self.d_head)
        return self.o_proj(out.flatten(2)), None


def make_hybrid(config, kinds, layers):
    """A model of this config and plan with weights that are not set yet."""
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for layer, kind_of_group in zip(model.model.layers, layers):
        layer.self_attn = HybridHeads(layer, kinds, kind_of_group, config)
    return model


def load_hybrid(folder, dtype=torch.float32):
    folder = pathlib.Path(folder)
    section = json.loads((folder / "config.json").read_text()).get("recurformer", {})
    if "layers" not in section:  # nothing is replaced
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = make_hybrid(transformers.AutoConfig.from_pretrained(folder), section["kinds"], section["layers"])
    tensors = load_file(folder / "model.safetensors")
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors)
    return model.to(dtype)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} FOLDER TOKEN...")
    with torch.no_grad():
        tokens = torch.tensor([[int(token) for token in sys.argv[2:]]])
        print(load_hybrid(sys.argv[1])(tokens, use_cache=False).logits[0, -1].argmax().item())
