#!/usr/bin/env bash
# trackkeras study extrapolation: train and evaluate the listed experiments, one after the other
# Example: scripts/run_all_experiments.sh --data data/tracks --only base --time-budget 600 --resume
# Example: sbatch --array=0-11 scripts/cluster_job.sh study extrapolation --data data/tracks --only base --index '{index}' --resume
# Example: condor_submit 'trackkeras=study extrapolation --data data/tracks --only base --index {index} --resume' scripts/htcondor.sub -queue index in 0,1,2,3
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras study extrapolation "$@"
