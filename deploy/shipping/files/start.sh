#!/bin/sh
# Serves the bundle; if its engine or its verdicts come from a different machine, it is built and judged here first.
#
#   EDGEDISTILL_DATA      labeled images in COCO's, YOLO's or VOC's layout, for gates on accuracy and for int8
#   EDGEDISTILL_UNGATED   1 serves even if gates did not pass, or could not be judged without images
#   EDGEDISTILL_SERVE     further options of edgedistill serve; paths in it are absolute
#   EDGEDISTILL_TRUSTED   public key, or identity as NAME,ISSUER, that must have signed the bundle; an engine built here is then not kept
#   EDGEDISTILL_BUNDLE    default /bundle
#   EDGEDISTILL_BUILT     where the engine built here is kept, default /tmp/built; on a volume, the next start need not rebuild it;
#                         of a folder that is there already, such as a volume's, its subfolder engine
#   EDGEDISTILL_HOST      default 0.0.0.0
set -eu
child=
# the first process of a container hears no signal that it does not trap
trap 'if [ -n "$child" ]; then kill "$child"; wait "$child" || :; fi; exit 143' TERM INT
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
bundle=$(absolute "${EDGEDISTILL_BUNDLE:-/bundle}")
built=$(absolute "${EDGEDISTILL_BUILT:-/tmp/built}")
if [ -n "${EDGEDISTILL_DATA:-}" ]; then EDGEDISTILL_DATA=$(absolute "$EDGEDISTILL_DATA"); fi
trusted=${EDGEDISTILL_TRUSTED:-}
if [ -e "$trusted" ]; then trusted=$(absolute "$trusted"); fi
# whoever can write the volume of an earlier engine is not the signer
if [ -n "$trusted" ]; then built=$(mktemp -d)/built; fi
# a volume is neither deleted nor replaced
if [ -d "$built" ] && [ ! -e "$built/manifest.json" ]; then built=$built/engine; fi
# a graph may refer to files below the working directory, so the server starts where there are none
if ! cd /empty 2> /dev/null || [ -n "$(ls -A)" ]; then cd "$(mktemp -d)"; fi
serve=${EDGEDISTILL_SERVE:-}
ungated=
if [ "${EDGEDISTILL_UNGATED:-0}" = 1 ]; then ungated=--allow-ungated; fi

# no engine mends options that are wrong, exit code 2
# shellcheck disable=SC2086 # several options
can_serve() { edgedistill serve "$@" --check $ungated $serve || { [ $? != 2 ] || exit 2; false; }; }
of_this_bundle() { cmp -s "$bundle/manifest.json" "$built.from"; }

if can_serve "$bundle" ${trusted:+--trusted "$trusted"}; then
    served=$bundle
    set -- ${trusted:+--trusted "$trusted"}
elif of_this_bundle && can_serve "$built"; then
    served=$built
else
    echo "start.sh: building the engine for this machine" >&2
    rm -rf "$built" "$built.from"
    edgedistill build "$bundle" ${trusted:+--trusted "$trusted"} ${EDGEDISTILL_DATA:+--data "$EDGEDISTILL_DATA"} --out "$built" &
    child=$!
    # exit codes 10 to 12 are verdicts, which serve checks
    wait $child || { code=$?; [ -e "$built/manifest.json" ] || exit $code; }
    child=
    cp "$bundle/manifest.json" "$built.from"
    served=$built
    if [ -n "$trusted" ]; then set -- --sha256 "$(sha256sum < "$built/manifest.json" | cut -c 1-64)"; fi
fi
# shellcheck disable=SC2086 # several options
exec edgedistill serve "$served" "$@" $ungated --host "${EDGEDISTILL_HOST:-0.0.0.0}" --port 8000 --grpc-port 8001 $serve
