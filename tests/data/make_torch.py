"""Writes torch-*.safetensors: small q, k, v and the o that PyTorch's CPU scaled_dot_product_attention makes of them.

Run once where PyTorch is (`python make_torch.py`, with torch and safetensors); the tests need neither it nor PyTorch.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

# name: dtype, batch, seq, heads, kv_heads, head_dim, causal
CASES = {
    "torch-bf16-causal-gqa": (torch.bfloat16, 1, 65, 4, 2, 128, True),
    "torch-bf16-full": (torch.bfloat16, 2, 33, 2, 2, 64, False),
    "torch-f16-causal": (torch.float16, 1, 70, 2, 2, 80, True),
    "torch-f32-full-mqa": (torch.float32, 1, 30, 4, 1, 96, False),
    "torch-f32-causal": (torch.float32, 1, 20, 1, 1, 256, True),
}


def main() -> None:
    torch.manual_seed(1)
    for name, (dtype, batch, seq, heads, kv_heads, dim, causal) in CASES.items():
        q = torch.randn(batch, seq, heads, dim).to(dtype)
        k, v = (torch.randn(batch, seq, kv_heads, dim).to(dtype) for _ in "kv")
        o = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal, enable_gqa=heads != kv_heads)
        tensors = {"q": q, "k": k, "v": v, "o": o.transpose(1, 2).contiguous()}
        save_file(tensors, Path(__file__).parent / f"{name}.safetensors", metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
