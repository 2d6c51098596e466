#!/bin/sh
# Starts Triton on the model repository next to this file; arguments are passed on.
#
#   EDGEDISTILL_TRUSTED   public key, or identity as NAME,ISSUER, that must have signed the bundle: the repository is then written from the
#                         bundle after its signature has been verified, which needs edgedistill[signing] where Triton runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$here/triton
if [ -n "${EDGEDISTILL_TRUSTED:-}" ]; then
    made=$(mktemp -d)
    edgedistill package "$here/bundle" --trusted "$EDGEDISTILL_TRUSTED" --out "$made/ready" >&2
    repository=$made/ready/triton
fi
exec tritonserver --model-repository="$repository" "$@"
