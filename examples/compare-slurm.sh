#!/bin/bash
# Slurm: the tasks of an array share a comparison of methods. --runs must be a folder that all nodes see, with working locks.
#   edgedistill compare pipeline.yaml --runs /shared/runs --dry-run          the plan: how many trainings, about how many minutes
#   sbatch examples/compare-slurm.sh pipeline.yaml /shared/runs
#   edgedistill compare pipeline.yaml --runs /shared/runs                    once the array has ended: the table
# A task that is preempted is queued again and continues; others may take over its training before that.
#SBATCH --job-name=compare
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
#SBATCH --output=compare-%A-%a.log
set -eu
exec srun edgedistill compare "${1:?name a pipeline.yaml}" --runs "${2:?name a folder that all nodes see}" --share any
