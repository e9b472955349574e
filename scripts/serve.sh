#!/usr/bin/env bash
# Serve bundles: in TF-Serving's official image where a Docker engine answers, by `trackkeras serve` otherwise.
# Example: scripts/serve.sh bundles
#
# Options are those of `trackkeras serve` and choose the local server; SERVER=docker or SERVER=local decides too.
# IMAGE names the image (tensorflow/serving:latest). Both servers listen on this machine alone, at 8500 and 8501.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

SERVER=${SERVER:-}
if [ -z "$SERVER" ]; then
    SERVER=docker
    for argument in "$@"; do
        case $argument in -*) SERVER=local ;; esac
    done
    if [ $# -eq 0 ] || ! docker info > /dev/null 2>&1; then
        SERVER=local
    fi
fi

case $SERVER in
    local)
        echo "server: trackkeras serve" >&2
        exec trackkeras serve "$@"
        ;;
    docker)
        IMAGE=${IMAGE:-tensorflow/serving:latest}
        FOLDER=$(mktemp -d)
        trap 'rm -rf "$FOLDER"' EXIT
        trackkeras serving-config "$@" --image "$IMAGE" --out "$FOLDER/models" > /dev/null
        chmod 755 "$FOLDER"
        echo "server: $IMAGE in Docker" >&2
        docker run --rm --init --read-only --tmpfs /tmp --entrypoint tensorflow_model_server \
            --publish 127.0.0.1:8500:8500 --publish 127.0.0.1:8501:8501 \
            --volume "$FOLDER/models:/models:ro" "$IMAGE" \
            --port=8500 --rest_api_port=8501 \
            --model_config_file=/models/models.config --monitoring_config_file=/models/monitoring.config
        ;;
    *)
        echo "error: SERVER must be docker or local, received '$SERVER'" >&2
        exit 2
        ;;
esac
