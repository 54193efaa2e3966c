#!/usr/bin/env bash
# What only a GPU can show, in one command and within eight minutes: checks, the time of a step of the paper profile
# and where it goes, throughput against the published loop, the hours of the paper's study.
#
#   bash benchmarks/gpu.sh [--device cuda|cpu] [--rehearse] [--output FOLDER] [--seconds 460]
#                          [--parts "checks step throughput hours"]
#
# Every part's result is in the output folder (default: reports/benchmarks/gpu) as soon as it is there; a part that
# fails or takes too long is noted and the rest goes on. Needs no installation and no network; packages that are
# missing come as wheels in .whl/ (see gpu.md). --rehearse takes the shipped tiny model in place of a base-size one.
# Two parts more, which together with the others take longer than eight minutes: shapes (what a batch of a new shape
# costs the trainer) and compiled (torch.compile).
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda rehearse= output=${DOCFLOQA_GPU_OUTPUT:-reports/benchmarks/gpu} seconds=
parts="checks step throughput hours"
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=$2 && shift 2 ;;
    --rehearse) rehearse=1 && shift ;;
    --output) output=$2 && shift 2 ;;
    --parts) parts=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    *) echo "unknown argument $1; see the head of $0" >&2 && exit 2 ;;
    esac
done
# A rehearsal shares its machine with others.
seconds=${seconds:-$([ -n "$rehearse" ] && echo 3600 || echo 460)}
case $device in cpu | cuda) ;; *) echo "--device is $device; allowed are cpu and cuda" >&2 && exit 2 ;; esac

python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
mkdir -p "$output"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$PWD/lib${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Pages, model and resized pages are made once for all parts.
export DOCFLOQA_BENCHMARK_SCRATCH=$scratch/output DOCFLOQA_OUTPUT=$scratch/output HF_HOME=$scratch/hub
if compgen -G '.whl/*.whl' >/dev/null && ! "$python" -c 'import datasets, rapidfuzz, papermill' 2>/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" .whl/*.whl
    PYTHONPATH=$PYTHONPATH:$scratch/site
fi

model=base threads=8 documents='60 16' steps=30 pairs=8 evaluated=32
ratios='0 1' batchings='uniform by_image'
if [ -n "$rehearse" ]; then
    model=tiny threads=1 documents='18 4' steps=2 pairs=2 evaluated=8 batchings=uniform
fi
log=$output/log.txt table=$output/parts.md failed=0
: >"$log"
{
    echo "# What a GPU shows"
    echo
    echo "| part | seconds | of at most | result |"
    echo "| --- | --- | --- | --- |"
} >"$table"

# part NAME SECONDS COMMAND...: its log, and a row of the table as soon as it ends.
part() {
    local name=$1 limit=$2 begun=$SECONDS left=$((seconds - SECONDS)) code
    shift 2
    : >"$scratch/part.log"
    [ "$limit" -lt "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        code=no
    else
        timeout -k 5 "$limit" "$@" >"$scratch/part.log" 2>&1
        code=$?
    fi
    local said="done"
    case $code in
    0) ;;
    no) said="not begun: no time left" ;;
    124 | 137) said="stopped: out of time" ;;
    *) said="failed ($code)" ;;
    esac
    [ "$code" = 0 ] || failed=1
    { echo "=== $name: $said" && tr '\r' '\n' <"$scratch/part.log" | tail -c 400000; } >>"$log" 2>/dev/null
    echo "| $name | $((SECONDS - begun)) | $limit | $said |" | tee -a "$table"
    [ "$code" = 0 ] || tail -c 1500 "$scratch/part.log" | tr '\r' '\n'
}

share() { # in seconds; a rehearsal on a CPU takes as long as it takes
    [ -n "$rehearse" ] && echo "$seconds" || echo "$1"
}

if [ -z "$rehearse" ]; then
    # Draws pages and writes the model on the CPU while the checks use the GPU.
    CUDA_VISIBLE_DEVICES= timeout 150 "$python" benchmarks/paper_step.py --prepare --device cpu --threads $threads \
        --documents $documents >"$scratch/prepare.log" 2>&1 &
    preparing=$!
fi
wanted() { [[ " $parts " == *" $1 "* ]]; }
if wanted checks; then part "checks" "$(share 90)" "$python" benchmarks/gpu_checks.py --device "$device"; fi
if [ -z "$rehearse" ]; then
    begun=$SECONDS
    wait $preparing || { failed=1 && tail -c 1500 "$scratch/prepare.log"; }
    echo "| drawing pages, beyond the checks | $((SECONDS - begun)) | | |" | tee -a "$table"
fi
step="benchmarks/paper_step.py --device $device --output $output --threads $threads --steps $steps"
step="$step --documents $documents ${rehearse:+--rehearse}"
if wanted step; then part "a step of paper" "$(share 140)" "$python" $step --ratios $ratios; fi
if wanted shapes; then
    for way in "trainer, eager" "trainer, static shapes only" "trainer, no cuDNN attention"; do
        part "batches of new shapes: $way" "$(share 60)" "$python" $step --ratios 0 --tries "$way"
    done
fi
if wanted throughput; then
    part "throughput" "$(share 230)" "$python" benchmarks/throughput.py --model $model --device "$device" \
        --threads $threads --ratios $ratios --batchings $batchings --batch-sizes --pairs $pairs --counted 2 \
        --evaluation-pairs 2 --evaluated $evaluated --documents $documents --output "$output"
fi
if wanted hours; then
    part "hours of the study" "$(share 25)" "$python" benchmarks/paper_hours.py "$output" --device "$device" \
        --model $model
fi
if wanted compiled; then
    part "a step, compiled" "$(share 300)" "$python" $step --ratios 1 \
        --tries compiled "compiled, CUDA graph" "compiled, reduce-overhead"
fi

for page in throughput-$model-$device paper_step-$device paper_hours; do
    if [ -f "$output/$page.md" ]; then echo && cat "$output/$page.md"; fi
done
echo
cat "$table"
exit $failed
