#!/bin/bash
# Slurm: one training on several nodes, one process per GPU. --runs must be a folder that all nodes see, with working locks, and so must
# pipeline.yaml, the images and the installation.
#   sbatch examples/train-slurm.sh pipeline.yaml /shared/runs
# A process that is killed is replaced, a job that is preempted is queued again: both continue after the last finished epoch.
# Size it first: docs/scaling.md. Raise train.batch_size and train.learning_rate in pipeline.yaml; the batch is shared by all GPUs.
#SBATCH --job-name=train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=train-%j.log
set -eu
config=${1:?name a pipeline.yaml}
runs=${2:?name a folder that all nodes see}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="$SLURM_GPUS_ON_NODE" --max_restarts=3 \
  --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$first:29500" \
  --no-python edgedistill run "$config" --runs "$runs"
