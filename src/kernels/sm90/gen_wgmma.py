#!/usr/bin/env python3
"""Writes wgmma_shapes.cuh: the operand lists of wgmma.mma_async for each N in use, which inline asm cannot loop over."""
import pathlib

WIDTHS = [16, 32, 64, 72, 80, 96, 112, 128, 136, 144, 160, 176, 192, 208, 224, 256]


def rows(items, per_row=16):
    return [", ".join(items[i : i + per_row]) for i in range(0, len(items), per_row)]


def main():
    out = ["// Written by gen_wgmma.py: accumulator operand lists of wgmma.mma_async, by N. Edit the script, not this file.", "#pragma once", ""]
    for n in WIDTHS:
        regs = n // 2
        text = ", \\\n    ".join(rows([f'"+f"(d[{i}])' for i in range(regs)], 8))
        out += [f"#define HOPFILL_WGMMA_D{n}(d) \\\n    {text}"]
        names = rows([f"%{i}" for i in range(regs)])
        lines = " \\\n    ".join(f'"{r}{", " if i + 1 < len(names) else ""}"' for i, r in enumerate(names))
        out += [f"#define HOPFILL_WGMMA_R{n} \\\n    {lines}"]
        # operands after the accumulators
        for i in range(9):
            out += [f'#define HOPFILL_WGMMA_O{n}_{i} "%{regs + i}"']
        out += [""]
    out += ["#define HOPFILL_WGMMA_FOR_EACH_N(X) " + " ".join(f"X({n})" for n in WIDTHS), ""]
    pathlib.Path(__file__).with_name("wgmma_shapes.cuh").write_text("\n".join(out))


if __name__ == "__main__":
    main()
