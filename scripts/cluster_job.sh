#!/usr/bin/env bash
# One trackkeras command as a batch job of SLURM (as it stands) or HTCondor (through scripts/htcondor.sub).
# In an array, `{index}` in the arguments becomes the index of the job; without it, `--shard INDEX` is added.
# Example: mkdir -p logs; sbatch --array=0-63 scripts/cluster_job.sh generate extrapolation --n 50000000 --shards 64 --out data/tracks
# Example: sbatch --cpus-per-task=2 --mem=4G scripts/cluster_job.sh train mlp_medium --data data/tracks --name first
# Example: sbatch --array=0-4 --mem=4G scripts/cluster_job.sh tune mlp_medium --data data/tracks --member {index} --resume
# Example: trackkeras generate --status data/tracks
#SBATCH --job-name=trackkeras
#SBATCH --output=logs/%x-%A_%a.out
#SBATCH --error=logs/%x-%A_%a.err
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=04:00:00
set -euo pipefail
if [ "${1:-}" = --help ]; then
    sed -n '2,7s/^# //p' "$0"
    exit
fi

# The scheduler starts jobs in the folder of the submission; an environment made there by scripts/ is found.
[ ! -x .venv/bin/trackkeras ] || PATH="$PWD/.venv/bin:$PATH"

# Compiled kernels suit one kind of processor, and jobs that write one cache at a time disturb each other.
NUMBA_CACHE_DIR=$(mktemp -d "${TMPDIR:-/tmp}/trackkeras-numba-XXXXXX")
export NUMBA_CACHE_DIR
trap 'rm -rf "$NUMBA_CACHE_DIR"' EXIT

# Threads beyond the processors of the job would only wait for each other.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-1}}

index=${SLURM_ARRAY_TASK_ID:-${TRACKKERAS_INDEX:-}}
arguments=("$@")
if [ -n "$index" ]; then
    if [[ "$*" == *"{index}"* ]]; then
        arguments=("${arguments[@]//\{index\}/$index}")
    else
        arguments+=(--shard "$index")
    fi
fi
echo "$(date -u +%FT%TZ) $(hostname): trackkeras ${arguments[*]}"
trackkeras "${arguments[@]}"
