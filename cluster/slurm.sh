#!/usr/bin/env bash
# Separates a catalogue on a Slurm allocation: Ray on its nodes, the run on the first of them.
#
#   sbatch --nodes=4 cluster/slurm.sh s3://catalogue/masters s3://stems/masters --model htdemucs
#
# What stands behind the script's name goes to `splitfire run`. The package must be on every node: set
# SPLITFIRE_VENV to a virtual environment on a shared file system. Options on sbatch's command line win over these.
#SBATCH --job-name=splitfire
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
# A job that was preempted, or whose node died, is queued again, and goes on from what the destination holds.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=splitfire-%j.log
# 90 s before the end of its time the job is told, so that tracks in flight can be finished (drain_s is 25).
#SBATCH --signal=B:TERM@90
set -euo pipefail

readonly AGAIN=75        # what `splitfire run` ends with when it is to be run again: see README.md
readonly MOST_RESTARTS=50
readonly WAIT_S=600      # for all nodes to have joined

[ $# -ge 2 ] || { echo "usage: sbatch cluster/slurm.sh SOURCE DESTINATION [options of splitfire run]" >&2; exit 2; }
: "${SLURM_JOB_ID:?this script is for sbatch}"
if [ -n "${SPLITFIRE_VENV:-}" ]; then
    export PATH="$SPLITFIRE_VENV/bin:$PATH"
fi

# Other users are on these machines. Nobody without this job's token is obeyed; it is in a file that only we can
# read, on the file system that all nodes share, and on no command line.
umask 077
secrets="$HOME/.splitfire/slurm-$SLURM_JOB_ID"
mkdir -p "$secrets"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$secrets/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$secrets/token" RAY_USAGE_STATS_ENABLED=0

steps=()
driver=""
was_told=0
tidy() { # Slurm itself ends what is left of the steps when this script has ended
    trap - EXIT
    [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true
    rm -rf "$secrets"
}
# shellcheck disable=SC2329 # by the trap below
on_term() { # near the end of the job's time: finish what is in flight, begin nothing
    was_told=1
    [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap tidy EXIT
trap on_term TERM

head="$(hostname)" # sbatch runs its script on the first node
node="${SLURMD_NODENAME:-$head}" # as Slurm calls it
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
ray_options=(
    --num-cpus="$SLURM_CPUS_PER_TASK"
    --object-store-memory=268435456 # no audio crosses Ray
    --disable-usage-stats
    --block
)
# Sockets and logs, in a folder that nobody else may enter: /tmp/ray would belong to whoever was here first, and
# Ray lets everybody into the folder that it is told.
# shellcheck disable=SC2016 # for the node to expand
start_ray='folder="/tmp/splitfire-$SLURM_JOB_ID.$SLURM_STEP_ID"
rm -rf "$folder" && mkdir -m 0700 "$folder" && exec ray start --temp-dir="$folder/ray" "$@"'

srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$node" \
    bash -c "$start_ray" ray --head --port="$port" --include-dashboard=false \
    "${ray_options[@]}" &
steps+=($!)
deadline=$((SECONDS + WAIT_S))
until ray health-check --address "$head:$port" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "Ray did not start on $head within $WAIT_S s" >&2; exit "$AGAIN"; }
    sleep 1
done

n_workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$n_workers" -gt 0 ]; then
    srun --overlap --nodes="$n_workers" --ntasks="$n_workers" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        --exclude="$node" bash -c "$start_ray" ray --address="$head:$port" "${ray_options[@]}" &
    steps+=($!)
fi
# A run follows nodes that join, but shares out its shards best when all are there.
n_joined() { ray status --address "$head:$port" 2>/dev/null | grep -c '^ *[0-9]* node_' || true; }
until [ "$(n_joined)" -ge "$SLURM_JOB_NUM_NODES" ]; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "not all nodes joined within $WAIT_S s: $(n_joined)" >&2; break; }
    sleep 2
done

code=0
if [ "$was_told" -eq 0 ]; then
    splitfire run "$@" --ray "$head:$port" &
    driver=$!
    wait "$driver" || code=$?
    # The signal ended the first wait, not the run.
    [ "$was_told" -eq 0 ] || { code=0; wait "$driver" || code=$?; }
    # Until Python has started, a run has no answer to SIGTERM, and dies of it: 128 + 15.
    [ "$was_told" -eq 0 ] || [ "$code" -ne 143 ] || code=$AGAIN
else
    code=$AGAIN
fi

if [ "$code" -eq "$AGAIN" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$MOST_RESTARTS" ]; then
    tidy
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
