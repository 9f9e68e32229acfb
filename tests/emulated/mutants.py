#!/usr/bin/env python3
"""Plants faults in the kernels, one at a time, and sees that the emulator names each by the right kind (or, for arithmetic on masks and layouts,
that the oracle disagrees).

    tests/emulated/mutants.py [--build build] [--sample N --seed TEXT] [--schedules N] [--only TEXT]

Every line of src/kernels (but sm90/) and of plan/geometry.h that matches a rule below is a site; each replacement of it is a mutant. Mutants that
are provably the same program are listed in EQUIVALENT with the proof, printed, run, and not counted unless a run refutes the proof. The last line is
`mutants caught: N/N`.
"""

import argparse
import concurrent.futures
import hashlib
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARIES = [
    "tests/emulated/libhopfill_workload.a",
    "src/emulator/libhopfill_emulator_core.a",
    "src/oracle/libhopfill_oracle.a",
    "src/plan/libhopfill_plan.a",
]

# The programs of mutant_main.cpp (kWanted there, and the quantiser's two). Files of a family's folder are mutated in that family's programs first.
CONFIGS = list(range(30))
OF_FAMILY = {"prefill": [0, 1, 19, 21, 22, 26], "prefill_short": [2, 3], "prefill_fp8": [*range(4, 10), 14, 15, 20, 23, 24, 25, 27],
             "prefill_folded": [10, 11, 18], "prefill_mixed": [12, 13], "prefill_widened": [16, 17], "quantize": [28, 29]}

# What a missing order between threads shows as, depending on which access comes first.
ORDER = {"read-before-arrival", "overwrite-before-release", "uninitialised-read", "race", "phase-lapped", "barrier-over-arrival"}
STUCK = {"deadlock", "phase-lapped", "barrier-unfinished"}
IN_FLIGHT = {"register-in-flight", "overwrite-before-release", "exit-in-flight"}
WRONG = {"wrong"}

# name, pattern, replacements, kinds of fault that are right
RULES = [
    ("mbarrier wait removed", r"(?<!void )\b[\w.]*wait_(full|empty)\(\);", [""], ORDER | {"exit-in-flight"}),
    ("mbarrier wait removed", r"sm90::mbarrier_wait\([^;]*\);", [""], ORDER | {"exit-in-flight"}),
    ("mbarrier wait removed", r"\b(this->)?wait_[kvq]\([^;]*\);", [""], ORDER | {"exit-in-flight"}),
    ("wait phase flipped", r"(mbarrier_(?:wait|test)\([^;]*), ([\w.]*phase)( \^ 1)?\)", [lambda m: f"{m[1]}, {m[2]}{'' if m[3] else ' ^ 1'})"],
     ORDER | STUCK),
    ("wait phase flipped", r"(mbarrier_(?:wait|test)\([^;]*), ([^,;]* % 2)\)", [lambda m: f"{m[1]}, {m[2]} ^ 1)"], ORDER | STUCK),
    ("wait phase flipped", r"return taken / Slots % 2 \^ 1;", ["return taken / Slots % 2;"], ORDER | STUCK),
    ("phase never turns", r"phase \^= 1;", [""], ORDER | STUCK),
    ("first phase", r"u32 phase = 0;", ["u32 phase = 1;"], ORDER | STUCK),
    ("slot does not advance", r"\b(this->)?\w+\.advance\(\);", [""], ORDER | STUCK | {"byte-count"} | WRONG),
    ("slot does not advance", r"\+\+(taken|number);", [""], ORDER | STUCK | {"byte-count"} | WRONG),
    ("stage release removed", r"(if \([\w>-]*warp_leader\(\)\) )?(this->)?\b\w+\.release\(\);", [""], STUCK),
    ("stage release removed", r"(?<![\w.])(?<!void )(this->)?release(_q)?\(\w*\);", [""], STUCK | ORDER | {"exit-in-flight"}),
    ("stage release removed", r"\b(this->)?release_[kv]\([^;]*\);", [""], STUCK | ORDER | {"exit-in-flight"}),
    ("released by every lane", r"if \([\w>-]*warp_leader\(\)\) (\w+\.release|sm90::mbarrier_arrive)", [lambda m: m[1]], ORDER | STUCK),
    ("arrival removed", r"(if \([\w>-]*warp_leader\(\)\) )?sm90::mbarrier_arrive\([^;]*\);", [""], STUCK),
    ("arrival twice", r"(sm90::mbarrier_arrive\(jobs\.full_barrier\(\)\);)", [lambda m: m[1] + " " + m[1]], ORDER | STUCK),
    ("arrival count", r"(mbarrier_init\([^;]*, )([^,;]*)\);", [lambda m: f"{m[1]}{m[2]} + 1);"], STUCK),
    ("arrival count", r"(mbarrier_init\([^;]*, )(4[^,;]*)\);", [lambda m: f"{m[1]}{m[2]} - 1);"], ORDER | STUCK),
    ("named barrier removed", r"sm90::named_barrier_sync\([^;]*\);", [""], ORDER | STUCK | {"barrier-count"}),
    ("named arrival removed", r"sm90::named_barrier_arrive\([^;]*\);", [""], STUCK | {"barrier-over-arrival"}),
    ("named barrier count", r"(named_barrier_sync\([^;]*, )(128|256)\)", [lambda m: f"{m[1]}{m[2]} + 32)"], STUCK | {"barrier-count"}),
    ("turn removed", r"\b(this->)?((wait|pass)_turn\(\)|(begin|end)_turns(<C>)?\(\w*\));", [""], STUCK | {"barrier-over-arrival"}),
    ("block barrier removed", r"sm90::sync_block\(\);", [""], ORDER | {"barrier-init", "barrier-unfinished", "deadlock"}),
    ("warp barrier removed", r"sm90::sync_warp\(\);", [""], ORDER | {"divergence"}),
    ("wgmma_fence removed", r"sm90::wgmma_fence\(\);", [""], {"missing-wgmma-fence"}),
    ("wgmma_wait removed", r"sm90::wgmma_wait<\d>\(\);", [""], IN_FLIGHT | {"missing-wgmma-fence"}),
    ("wgmma_wait too weak", r"sm90::wgmma_wait<(\d)>\(\);", [lambda m: f"sm90::wgmma_wait<{int(m[1]) + 1}>();"],
     IN_FLIGHT),
    ("wgmma_commit removed", r"sm90::wgmma_commit\(\);", [""], IN_FLIGHT),
    ("proxy fence removed", r"sm90::fence_async_shared\(\);", [""], {"missing-proxy-fence"}),
    ("initialisation fence removed", r"sm90::fence_mbarrier_init\(\);", [""], {"barrier-init"}),
    ("device fence removed", r"sm90::fence_device\(\);", [""], ORDER),
    ("too few bytes", r"(expect_bytes\([^;]*, )([^,;]*)\);", [lambda m: f"{m[1]}{m[2]} - 128);"], {"byte-count"}),
    ("too many bytes", r"(expect_bytes\([^;]*, )([^,;]*)\);", [lambda m: f"{m[1]}{m[2]} + 128);"], {"byte-count"}),
    ("store's wait removed", r"(if \(.*\) )?sm90::tma_store_wait(_read)?<0>\(\);", [""],
     {"overwrite-before-release", "exit-in-flight", "race"}),
    ("store's wait too weak", r"sm90::tma_store_wait_read<(kSlots[^;]*)>\(\);", [lambda m: f"sm90::tma_store_wait_read<{m[1]} + 1>();"],
     {"overwrite-before-release", "exit-in-flight"}),
    ("store's wait removed", r"if \(\w+(\(\))?\) wait_for_staging<C>\([^;]*\);", [""], {"overwrite-before-release", "exit-in-flight"}),
    ("store's commit removed", r"sm90::tma_store_commit\(\);", [""], {"exit-in-flight", "overwrite-before-release"}),
    ("too many registers", r"take_registers<([^;]*)>\(\);", [lambda m: f"take_registers<{m[1]} + 24>();"], {"registers"}),
    ("registers not given", r"sm90::give_registers<[^;]*>\(\);", [""], {"registers"}),
    ("launch dependency", r"sm90::wait_for_previous_launch\(\);", [""], {"dependency"}),
    ("swizzle", r"\(row & 7\)", ["(row & 3)", "(row & 6)"], WRONG),
    ("swizzle", r"\^ row\) << 4", ["^ (row & 3)) << 4"], WRONG),
    ("swizzle", r"\(row >= 4\) \^ \(matrix % 2\)", ["(row >= 4)"], WRONG | {"uninitialised-read", "race"}),
    ("swizzle mode", r"kSwizzle128 = u64\{1\} << 62", ["kSwizzle128 = u64{2} << 62", "kSwizzle128 = u64{0} << 62"],
     WRONG | ORDER | {"shared-out-of-bounds"}),
    ("descriptor stride", r"\(u64\{kAtomBytes >> 4\} << 32\)", ["(u64{kAtomBytes >> 5} << 32)"], WRONG | ORDER | {"shared-out-of-bounds"}),
    ("mask edge", r"column >= left", ["column > left"], WRONG),
    ("mask edge", r"row \+ 1 \+ kv_len - q_len", ["row + kv_len - q_len", "row + 2 + kv_len - q_len"], WRONG),
    ("mask edge", r"visible_keys<C>\(row \+ 8,", ["visible_keys<C>(row,"], WRONG),
    ("mask edge", r"return kv_len;", ["return kv_len + 1;", "return kv_len - 1;"], WRONG),
    ("mask edge", r"\(n \+ 1\) \* kN > limit\[0\]", ["(n + 1) * kN > limit[0] + 1"], WRONG),
    # (One key in 128 is less than what P in e4m3 is off by.)
    ("mask edge", r"\(n \+ 1\) \* kN > visible", ["(n + 1) * kN > visible + 64"], WRONG),
    ("mask edge", r"causal \? 8 : 0", ["causal ? 7 : 0", "causal ? 9 : 0"], WRONG),
    ("mask edge", r"row0 \+ 1 \+ kv_len - q_len", ["row0 + 2 + kv_len - q_len"], WRONG),
    ("mask edge", r"last_row \+ kv_len - q_len", ["last_row + kv_len - q_len - 1"], WRONG),
    ("KV range", r"ceil_div\((kv_len|last_sees), c\.tile_n\)", [lambda m: f"({m[1]} / c.tile_n)"], WRONG | STUCK),
    ("KV range", r"(kv_len|first_sees) / c\.tile_n\}", [lambda m: f"ceil_div({m[1]}, c.tile_n)}}"], WRONG),
    ("row edge", r"if \(row( \+ 8)? < q_len\)", [lambda m: f"if (row{m[1] or ''} <= q_len)"], WRONG | {"global-out-of-bounds"}),
    ("row edge", r"(row|first \+ i|share\.rows) < t\.tokens", [lambda m: f"{m[1]} <= t.tokens"],
     WRONG | {"global-out-of-bounds", "uninitialised-read"}),
    ("row edge", r"if \(i >= all\) break;", [""], WRONG | {"global-out-of-bounds", "shared-out-of-bounds"}),
    ("wait for other blocks removed", r"sm90::wait_global\([^;]*\);", [""], {"race", "uninitialised-read"}),
    ("async fence removed", r"sm90::fence_async_global\(\);", [""], {"missing-proxy-fence"}),
    ("too little is waited for", r"static_cast<u32>\(channel_pieces\(C\)\)", ["static_cast<u32>(channel_pieces(C) - 1)"],
     {"race", "uninitialised-read"}),
    ("parties", r"2 \* sm90::grid_size\(\)", ["sm90::grid_size()"], {"race", "work-counter", "deadlock"}),
    ("count removed", r"sm90::atomic_add\(done, 1u\);", [""], {"deadlock"}),
    ("part's count removed", r"sm90::atomic_add\(done, 1u\) \+ 1 ==", ["sm90::load_global(done) + 1 =="], WRONG | {"race", "uninitialised-read"}),
    ("parts", r"static_cast<u32>\(p\.parts\);", ["static_cast<u32>(p.parts - 1);"], WRONG | {"race", "uninitialised-read", "work-counter"}),
    ("parts", r"job\.kv_len -= first \* C\.tile_n;", [""], WRONG),
    ("parts", r"(\(part \+ 1\) \* all\), p\.by_parts\)) - 1;", [lambda m: f"{m[1]};"], WRONG | {"uninitialised-read"}),
    ("counter not reset", r"if \(is_last\) sm90::store_global\(done, 0u\);", [""], {"work-counter"}),
    ("counter not reset", r"sm90::store_global\(p\.turning \+ i, 0u\);", [""], {"work-counter"}),
    ("keys of the next sequence", r"keys < C\.tile_n", ["keys < -C.tile_n"], WRONG),
    ("bytes of a row", r"shift % 4", ["shift % 2"], WRONG),
    ("bytes of a row", r"shift & [84]", ["false"], WRONG),
    ("sums", r"shared\.write_ones\([^;]*\);", [""], ORDER),
    ("sums", r"0x38383838", ["0x38383830"], WRONG),
    ("sums", r"inside \^ slot \* vt_shared_keys\(C\)", ["inside"], WRONG | ORDER),
    ("sums", r"finish_sums\(shared\.job\(done\), softmax, reference,", ["finish_sums(shared.job(done), softmax, softmax.reference,"], WRONG),
    ("sums", r"4\.0f \* softmax\.sum", ["softmax.sum"], WRONG),
    ("counter not reset", r"sm90::store_global\(params\.work_counter[^;]*\);", [""], {"work-counter"}),
]

# Mutants that do what the program does, in every schedule, on every input: file, start of the line (or it and the one above, whole), rule, part of
# the mutated line; proof. Their machine code differs, so each proof is an argument; a full run also looks for a schedule that refutes it.
EQUIVALENT = [
    ("prefill/consumer.cuh", "            release(v);", "stage release removed", "",
     "this arrival follows the warpgroup's last read of V, of the last block that was loaded. The producer waits for an empty slot only before a"
     " load, so no wait is left that the arrival, or the ring's slot and phase, could matter to"),
    ("prefill/block.cuh", "            sm90::sync_warp();", "warp barrier removed", "",
     "it orders the elected lane's initialisation of barriers before what its warp does up to the block's barrier. Of the warp only the elected lane"
     " touches barriers there, and elect.sync elects the same lane for the same mask (PTX ISA 9.7.13.15); elect.sync, shuffles and votes wait for"
     " all lanes by themselves"),
    ("mainloop.cuh", "        sm90::sync_warp();", "warp barrier removed", "",
     "slot j % 4 is written again by publish(j + 4), which the producer comes to after load_q(j + 3), or is asked for behind it. That waits for every"
     " warp's release of the Q of job j + 1 or j + 2 (two or one Q slots), which each leader lane makes after job j's epilogue, whose named barriers"
     " follow all lanes' reads of slot j"),
    ("prefill/mainloop.cuh", "// There may be more.\nsm90::sync_warp();", "warp barrier removed", "",
     "all lanes have read the end marker before slot j % 4 is written again by publish(j + 4): two jobs follow that without another marker, and"
     " the second one's load_q() waits for the release of the first one's Q; or each has a marker behind it, where the producer waits until all"
     " warps have given the job's slot back, which they do behind a barrier of their lanes"),
    ("prefill_fp8/transpose.cuh", "}\nsm90::sync_warp();", "warp barrier removed", "",
     "as above: the Q of job j + 1 is released after the products with job j's V^T, which a transposing warp arrives for behind another barrier of"
     " its lanes, after their reads of slot j"),
    ("prefill_folded/consumer_ahead.cuh", "const RowStore<C> store(params, shared, slot, warpgroup);\nsm90::sync_warp();", "warp barrier removed", "",
     "as of mainloop.cuh: publish(j + 4) comes after each warpgroup's release of the Q of job j + 1 or later, and a warp's store, before that, has"
     " barriers of its lanes behind their reads of slot j"),
    ("prefill_folded/consumer_ahead.cuh", "q.wait_full();\nsm90::sync_warp();", "warp barrier removed", "",
     "the phase that a lane waits for could only be lapped by Q1 of job j + 2, in the same of two slots. That is loaded behind K[last] of job j + 2,"
     " which waits for a slot that this warp gives back when it skips a block of job j or j + 1, behind a barrier of its lanes; a job has a block"),
    ("plan/geometry.h", "    if (c.mask == Mask::full) return", "KV range", ", ceil_div(kv_len, c.tile_n)}",
     "without a mask only the last block has keys past the sequence's end. It is the first that a consumer takes, and first blocks are"
     " masked whatever `unmasked` says (start_softmax by a test of its own, first_block, make_block and end_block with Masked)"),
    ("plan/geometry.h", "    const i32 first_sees", "mask edge", "row0 + 2 + kv_len",
     "the block that ends with the first row's last key counts as unmasked then: all rows see all of it. A row that has seen no key before it has no"
     " reference there, which matters to exponentials by references alone; they are not finite then, and the job comes again with all blocks masked"),
    ("prefill_short/consumer.cuh", "} else {\nsm90::sync_warp();", "warp barrier removed", "",
     "the lanes' last read of the slot comes before the warp's wgmmas, which wait for all its lanes, or, of a warp without blocks, before the barrier"
     " that its release of Q follows"),
    ("prefill_mixed/convert.cuh", "const i32 blocks = sm90::load_shared(&shared.job(jobs.slot)->blocks);\nsm90::sync_warp();",
     "warp barrier removed", "",
     "as above: the Q of job j + 1 is released after the products with job j's first K, which a converting warp arrives for behind another barrier of"
     " its lanes, after their reads of slot j"),
    ("prefill/producer.cuh", "        jobs.wait_empty();", "mbarrier wait removed", "",
     "publish(j + 4) comes after load_q(j + 3), which waits for every warp's release of the Q of job j + 1 or later. A warp makes it after its"
     " arrival for job j at job_empty, which follows all its reads of slot j, so this wait never waits and orders nothing more. The transposing"
     " or converting warps have read slot j before they arrive for the V^T or the K of its first block, which the consumers have multiplied by then."
     " In the main family a scheduler is asked for job j + 4 behind load_q(j + 3), by who has looked at slot j for the last time before job j + 2"),
    ("prefill/scheduler.cuh", "        sm90::wait_for_previous_launch();", "launch dependency", "",
     "as a consumer's: the loader has waited before the block's barrier, which comes before this"),
    ("prefill/scheduler.cuh", "HOPFILL_INLINE void end() {\nsm90::sync_warp();", "warp barrier removed", "",
     "what lanes have read of the slots comes before has_failed()'s last vote, or before the barrier in front of finish()"),
    ("prefill/scheduler.cuh", "            if (!one_wave || ended) sm90::mbarrier_wait(shared.draw(), phase);", "mbarrier wait removed", "",
     "`draw` says when the next number is wanted, so that blocks with long jobs do not hoard. What a job's description overwrites is guarded by its"
     " slot, and in which order jobs are done changes no output"),
    ("prefill/scheduler.cuh", "            if (!one_wave || ended) sm90::mbarrier_wait(shared.draw(), phase);", "wait phase flipped", "",
     "as without the wait: a phase that has passed already, or one job earlier"),
    ("prefill/scheduler.cuh", "        for (u32 phase = 0;; phase ^= 1) {", "first phase", "",
     "as without the wait: a phase that has passed already, or one job earlier"),
    ("prefill/block.cuh", "        sm90::wait_for_previous_launch();", "launch dependency", "",
     "griddepcontrol.wait makes the launch before visible to the whole grid (PTX ISA 9.7.13.13). The producer has waited before it publishes its"
     " first job, and a consumer touches global memory only after it has acquired a job"),
    ("prefill_fp8/turner.cuh", "        sm90::wait_for_previous_launch();", "launch dependency", "",
     "as a consumer's: the loader has waited before the block's barrier, which comes before this"),
    ("prefill_fp8/turner.cuh", "            sm90::sync_warp();", "warp barrier removed", "",
     "what the leader does before it is ordered for the others by turn_full, at which it arrives; the lanes meet at the next piece's ldmatrix, or at"
     " the vote"),
    ("prefill_fp8/kernel.cuh", "                sm90::wait_for_previous_launch();", "launch dependency", "",
     "as a consumer's: a transposing warp reads lengths and multipliers of a job that it has acquired, and nothing else of global memory"),
]


class Mutant:
    def __init__(self, file, line, rule, previous, before, after, kinds):
        self.file, self.line, self.rule, self.before, self.after, self.kinds = file, line, rule, before, after, kinds
        self.both = f"{previous.strip()}\n{before.strip()}"  # with the line above

    def equivalent(self):
        for file, part, rule, after, proof in EQUIVALENT:
            here = self.both == part if "\n" in part else self.before.startswith(part)
            if str(self.file).endswith(file) and here and rule == self.rule and after in self.after:
                return proof
        return None

    def __str__(self):
        return f"{self.file}:{self.line}: {self.rule}: {self.before.strip()}  ->  {self.after.strip().removeprefix(';') or 'nothing'}"


def sources():
    kernels = ROOT / "src" / "kernels"
    files = [p for p in sorted(kernels.rglob("*.cuh")) if "sm90" not in p.parts]
    return [(p, p.relative_to(kernels)) for p in files] + [(ROOT / "src/plan/geometry.h", pathlib.Path("plan/geometry.h"))]


def find_mutants():
    found = []
    for path, relative in sources():
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            code = line.split("//")[0]
            if re.match(r"\s*(HOPFILL_INLINE )?(static )?(void|bool) \w+\(", code) and "{" not in code:
                continue
            # A function's body on one line keeps its head.
            start = code.find("{") + 1 if re.match(r"\s*HOPFILL_INLINE", code) else 0
            for rule, pattern, replacements, kinds in RULES:
                for match in re.finditer(pattern, code[start:]):
                    for replacement in replacements:
                        new = replacement(match) if callable(replacement) else replacement
                        if new == "":
                            new = "{}" if code[start:start + match.start()].rstrip().endswith((")", "else")) else ""
                        after = code[:start + match.start()] + new + code[start + match.end():]
                        # A statement alone on its line may be all that an `if` of the line before has.
                        after = after if after.strip() else after + ";"
                        found.append(Mutant(relative, number, rule, lines[number - 2] if number > 1 else "", line, after, kinds))
    unique = {}
    for m in found:
        unique.setdefault((str(m.file), m.line, m.after), m)
    return list(unique.values())


def compiler(build):
    for line in (build / "CMakeCache.txt").read_text().splitlines():
        if line.startswith("CMAKE_CXX_COMPILER:"):
            return line.split("=", 1)[1]
    return "c++"


def run(mutant, build, schedules, cxx):
    """Compiles the program with the mutant and runs it: the outcome's kind and its text."""
    with tempfile.TemporaryDirectory(prefix="hopfill-mutant-") as folder:
        tree = pathlib.Path(folder)
        for path, relative in sources():
            (tree / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / relative)
        if mutant is not None:
            lines = (tree / mutant.file).read_text().splitlines()
            lines[mutant.line - 1] = mutant.after
            (tree / mutant.file).write_text("\n".join(lines) + "\n")
        folder = mutant.file.parts[0] if mutant is not None else ""
        own = OF_FAMILY.get(folder, [])
        # prefill/ is part of all families of attention, the other families' folders of none but their own.
        others = [c for c in CONFIGS if c not in own and (mutant is None or c not in OF_FAMILY["quantize"])]
        order = own if own and folder != "prefill" else own + others
        # What only some schedules show gets more of them. A fault of another kind than the right ones is kept, but looked past.
        other = "clean", ""
        rounds = [(0, schedules, order)]
        if mutant is not None and not mutant.equivalent():
            rounds += [(schedules, 4 * schedules, order), (5 * schedules, 40 * schedules, own)]
        for first, count, configs in rounds:
            for config in configs:
                kind, text = check(tree, config, build, first, count, cxx)
                found = kind, text.replace(f"{tree}/", "").strip()
                if kind != "clean" and (mutant is None or kind in mutant.kinds):
                    return found
                if other[0] == "clean":
                    other = found
    return other


def check(tree, config, build, first, count, cxx):
    """One config's kernel: compiled against the headers in `tree`, and run under `count` schedules."""
    program = tree / f"mutant{config}"
    command = [cxx, "-std=c++20", "-O0", "-w", "-ffp-contract=off", f"-DHOPFILL_CONFIG={config}", f"-I{tree}"]
    command += [f"-I{ROOT / p}" for p in ("src/emulator", "src", "include", "tests/emulated")]
    command += [str(ROOT / "tests/emulated/mutant_main.cpp")] + [str(build / p) for p in LIBRARIES] + ["-lboost_context", "-o", str(program)]
    compiled = None if program.exists() else subprocess.run(command, capture_output=True, text=True)
    if compiled is not None and compiled.returncode != 0:
        return "does not compile", compiled.stderr[-2000:]
    try:
        done = subprocess.run([str(program), str(first), str(count)], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "timeout", ""
    if done.returncode != 0:
        return "crash", f"status {done.returncode} {done.stderr[-500:]}"
    kind, _, text = done.stdout.partition("\n")
    return kind, text


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    arguments.add_argument("--sample", type=int, help="only this many, drawn by --seed")
    arguments.add_argument("--seed", default=None, help="of the sample; default: the commit's hash")
    arguments.add_argument("--schedules", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments.add_argument("--first", type=int, default=0, help="skip this many")
    arguments.add_argument("--only", help="only mutants whose description contains this")
    arguments.add_argument("--list", action="store_true", help="print the mutants and stop")
    options = arguments.parse_args()

    everything = find_mutants()
    equivalent = [m for m in everything if m.equivalent()]
    mutants = [m for m in everything if not m.equivalent()]
    if options.only:
        mutants = [m for m in mutants if options.only in str(m)]
    mutants = mutants[options.first :]
    if options.list:
        print("\n".join(map(str, mutants)))
        return 0
    if options.sample is not None:
        seed = options.seed or subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        digest = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
        mutants = random.Random(digest).sample(mutants, min(options.sample, len(mutants)))
        print(f"{len(mutants)} of {len(everything) - len(equivalent)} mutants, drawn by {seed}")

    cxx = compiler(options.build)
    kind, text = run(None, options.build, options.schedules, cxx)
    if kind != "clean":
        print(f"the kernels as they are: {kind}\n{text}")
        return 1
    caught = refuted = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        proven = equivalent if options.sample is None and not options.only else []
        for m, (kind, text) in zip(proven, pool.map(lambda m: run(m, options.build, options.schedules, cxx), proven), strict=True):
            refuted += kind != "clean"
            print(f"{'the same program' if kind == 'clean' else 'NOT THE SAME'}  {m}\n    {m.equivalent()}", flush=True)
            if kind != "clean":
                print(f"    but: {kind}: {text}")
        for m, (kind, text) in zip(mutants, pool.map(lambda m: run(m, options.build, options.schedules, cxx), mutants), strict=True):
            good = kind in m.kinds
            caught += good
            first = text.splitlines()[0] if text else ""
            print(f"{'caught' if good else 'NOT CAUGHT'}  {m}\n    {kind}{': ' + first.removeprefix(kind + ': ') if first else ''}", flush=True)
            if not good:
                print("    expected one of: " + ", ".join(sorted(m.kinds)))
    total = len(mutants) + refuted
    print(f"mutants caught: {caught}/{total}")
    return 0 if caught == total else 1


if __name__ == "__main__":
    sys.exit(main())
