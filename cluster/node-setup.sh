#!/usr/bin/env bash
# Makes a machine of `ray up` ready: our package with the exact versions of constraints.txt, and its folders.
# Runs again whenever a mounted file changes, so every step may be repeated.
#
#   node-setup.sh EXTRAS [PACKAGE...]    EXTRAS of splitfire-batch, such as demucs,decode; more packages for the head
set -euo pipefail

readonly VERSION=0.1.0 # of the wheel in dist/; a test compares it with pyproject.toml
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=cluster/node-environment.sh
. "$here/node-environment.sh"

extras="${1:?which extras of splitfire-batch, such as demucs?}"
shift

# The system's Python: all machines start from the same image, and Ray wants the same Python on all of them.
if ! python3 -m venv --help >/dev/null 2>&1 || ! python3 -c 'import ensurepip' 2>/dev/null; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq --no-install-recommends python3-venv
fi
[ -x "$HOME/venv/bin/python" ] || python3 -m venv "$HOME/venv"
# The wheel by its path: an index might have another package of this name.
"$HOME/venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$here/constraints.txt" \
    "$here/dist/splitfire_batch-$VERSION-py3-none-any.whl[$extras]" "$@"

# Unreleased music lies here for minutes: for this user only.
sudo install -d -m 0711 -o "$(id -u)" -g "$(id -g)" /opt/dlami/nvme/splitfire
install -d -m 0700 "$SPLITFIRE_RUNTIME__SCRATCH_DIR" "$SPLITFIRE_CACHE"

# `ray down` and `ray exec` come in through a login shell.
line=". $here/node-environment.sh"
grep -qxF "$line" "$HOME/.bashrc" || sed -i "1i $line" "$HOME/.bashrc"

chmod 0600 "$HOME/.ray/auth_token" # a token that others of the machine can read is none
