#!/bin/sh
# Serves the bundle; if its engine or its verdicts come from a different machine, it is built and judged here first.
#
#   EDGEDISTILL_DATA      labeled images in COCO's layout, for gates on accuracy and for int8
#   EDGEDISTILL_UNGATED   1 serves even if gates did not pass, or could not be judged without images
#   EDGEDISTILL_SERVE     further options of edgedistill serve
#   EDGEDISTILL_BUNDLE    default /bundle
#   EDGEDISTILL_BUILT     where the engine built here is kept, default /tmp/built; on a volume, the next start need not rebuild it
#   EDGEDISTILL_HOST      default 0.0.0.0
set -eu
bundle=${EDGEDISTILL_BUNDLE:-/bundle}
built=${EDGEDISTILL_BUILT:-/tmp/built}
serve=${EDGEDISTILL_SERVE:-}
ungated=
if [ "${EDGEDISTILL_UNGATED:-0}" = 1 ]; then ungated=--allow-ungated; fi

# shellcheck disable=SC2086 # several options
can_serve() { edgedistill serve "$1" --check $ungated $serve; }
of_this_bundle() { cmp -s "$bundle/manifest.json" "$built.from"; }

if can_serve "$bundle"; then
    served=$bundle
elif of_this_bundle && can_serve "$built"; then
    served=$built
else
    echo "start.sh: building the engine for this machine" >&2
    rm -rf "$built" "$built.from"
    edgedistill build "$bundle" ${EDGEDISTILL_DATA:+--data "$EDGEDISTILL_DATA"} --out "$built" &
    child=$!
    trap 'kill $child; exit 143' TERM INT
    # exit codes 10 to 12 are verdicts, which serve checks
    wait $child || [ -e "$built/manifest.json" ]
    trap - TERM INT
    cp "$bundle/manifest.json" "$built.from"
    served=$built
fi
# shellcheck disable=SC2086 # several options
exec edgedistill serve "$served" $ungated --host "${EDGEDISTILL_HOST:-0.0.0.0}" --port 8000 --grpc-port 8001 $serve
