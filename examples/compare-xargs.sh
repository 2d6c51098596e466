#!/bin/sh
# One machine: one process per GPU shares a comparison of methods, then the table is drawn.
#   sh examples/compare-xargs.sh pipeline.yaml 8      eight GPUs; without GPUs, eight processes on the CPU
# Processes that were killed may be started again at any time, also while the others run.
set -eu
config=${1:?name a pipeline.yaml}
processes=${2:?how many processes}
seq 0 $((processes - 1)) |
  xargs -P "$processes" -I{} sh -c 'CUDA_VISIBLE_DEVICES={} edgedistill compare "$1" --share any > "compare-{}.log" 2>&1' share "$config"
edgedistill compare "$config"
