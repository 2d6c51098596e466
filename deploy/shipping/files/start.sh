#!/bin/sh
# Serves /bundle; where its engine or its verdicts are another machine's, it is built and judged here first.
#
#   EDGEDISTILL_DATA      labeled images in COCO's layout, for gates on accuracy and for int8
#   EDGEDISTILL_UNGATED   1 serves although gates did not pass, or could not be judged without images
#   EDGEDISTILL_SERVE     further options of edgedistill serve
set -eu
bundle=${EDGEDISTILL_BUNDLE:-/bundle}
built=${EDGEDISTILL_BUILT:-/tmp/built}
ungated=
[ "${EDGEDISTILL_UNGATED:-0}" = 1 ] && ungated=--allow-ungated

if [ -e "$built/manifest.json" ]; then
    bundle=$built
elif ! edgedistill serve "$bundle" --check $ungated; then
    echo "start.sh: building the engine for this machine" >&2
    edgedistill build "$bundle" ${EDGEDISTILL_DATA:+--data "$EDGEDISTILL_DATA"} --out "$built" || [ -e "$built/manifest.json" ]
    bundle=$built
fi
# shellcheck disable=SC2086 # several options
exec edgedistill serve "$bundle" $ungated --host "${EDGEDISTILL_HOST:-0.0.0.0}" --port 8000 --grpc-port 8001 ${EDGEDISTILL_SERVE:-}
