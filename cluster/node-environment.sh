# What every process on a machine of `ray up` finds; sourced by node-setup.sh, by each `ray start`, and by logins.
# shellcheck shell=bash
# Ray's `ray down`, `ray status` and `ray job` are looked for by name.
export PATH="$HOME/venv/bin:$PATH"
# Who has no token is not obeyed. The token itself is in ~/.ray/auth_token, which `ray up` copies.
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
# `ray job stop` kills after 3 s otherwise; a run needs drain_s (25 s) to finish what is in flight.
export RAY_JOB_STOP_WAIT_TIME_S=40
# On the fast disk of the machine, where it has one: tracks on their way, and weights.
export SPLITFIRE_RUNTIME__SCRATCH_DIR=/opt/dlami/nvme/splitfire/scratch
export SPLITFIRE_CACHE=/opt/dlami/nvme/splitfire/cache
# Workers need no way to the internet: `splitfire models pull NAME --to URL` fills this once.
# export SPLITFIRE_RUNTIME__WEIGHTS_MIRROR=s3://YOUR-BUCKET/weights
