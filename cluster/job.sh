#!/usr/bin/env bash
# `splitfire run` for schedulers that know success and failure only. 3 means: finished, some tracks failed. They
# are rows with a reason, and another try would not change them, so that is a success; whatever else went wrong
# is not, and is to be tried again. In the image it is called splitfire-job (infra/Dockerfile).
set -uo pipefail
splitfire run "$@"
code=$?
[ "$code" -ne 3 ] || code=0
exit "$code"
