#!/usr/bin/env bash
# On a Hopper machine, with binaries that were built elsewhere: computes what evidence/ records again, and with --grid records it anew.
#   tests/gpu/device_check.sh [--grid] [--memcheck] [--quick] [--fidelity]
# --fidelity alone: outputs of the one-instruction kernels and of the kernels on small integers, which the emulator's tests compare with.
# Nothing is installed or downloaded. New evidence and logs go to $OUT, or out/device-check; copy what is in its evidence/ to evidence/.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

out=${OUT:-out/device-check}
programs=${HOPFILL_GPU_PROGRAMS:-}
if [[ -z $programs ]]; then
    for folder in build/gpu build-*/gpu; do
        [[ -x $folder/hopfill_gpu_tests ]] && programs=$folder && break
    done
fi
[[ -n $programs ]] || { echo "device-check: no hopfill_gpu_tests; run './dev build all' where there is a compiler, and carry build/gpu here" >&2; exit 2; }
tests=$programs/hopfill_gpu_tests
mkdir -p "$out"

grid=0 memcheck=0 quick=0 fidelity=0
for word in "$@"; do
    case $word in
        --grid) grid=1 ;;
        --memcheck) memcheck=1 ;;
        --quick) quick=1 ;;
        --fidelity) fidelity=1 ;;
        *) echo "device-check: $word is not known; --grid, --memcheck, --quick, --fidelity are" >&2; exit 2 ;;
    esac
done

# A partial run leaves what it has: the records name the cases that are missing.
if ((fidelity)); then
    mkdir -p "$out/evidence"
    status=0
    "$programs/hopfill_gpu_fidelity" --run "$out/fidelity.bin" 2>&1 | tee "$out/fidelity.log" || status=1
    "$programs/hopfill_gpu_fidelity" --import "$out/fidelity.bin" "$out/evidence" || status=1
    gzip -f "$out/fidelity.bin"
    exit $status
fi

status=0
export HOPFILL_EVIDENCE=$PWD/evidence
if ((grid)); then
    HOPFILL_EVIDENCE_OUT=$out/evidence "$tests" --gtest_brief=1 2>&1 | tee "$out/grid.log" || status=1
elif ((quick)); then
    HOPFILL_GRID_LIMIT=60 "$tests" --gtest_brief=1 --gtest_filter='-*TenThousand*' 2>&1 | tee "$out/quick.log" || status=1
else
    "$tests" --gtest_brief=1 --gtest_filter='-*EvidenceGrid*' 2>&1 | tee "$out/check.log" || status=1
fi

if ((memcheck)); then
    sanitizer=
    for candidate in compute-sanitizer /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda-*/bin/compute-sanitizer; do
        command -v "$candidate" >/dev/null && sanitizer=$candidate && break
    done
    if [[ -n $sanitizer ]]; then
        HOPFILL_PATIENCE=20 "$sanitizer" --tool memcheck --error-exitcode 9 "$tests" --gtest_brief=1 --gtest_filter='*SmallGrid*' 2>&1 |
            tee "$out/memcheck.log" || status=1
    else
        echo "device-check: no compute-sanitizer on this machine; memcheck not run"
    fi
fi
exit $status
