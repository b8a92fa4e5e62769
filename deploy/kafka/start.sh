#!/bin/sh
# Starts one Kafka node of the Apache distribution (its image, or unpacked in KAFKA_FOLDER) with server.properties of
# this folder; formats an empty data folder first. Used by deploy/compose.yaml and deploy/systemd/qingtu-kafka.service.
set -eu
properties=$(dirname "$0")/server.properties
bin=${KAFKA_FOLDER:-/opt/kafka}/bin
: "${BROKER_DATA:?names the data folder}" "${BROKER_HOST:?names the host as clients reach it}"
export BROKER_BIND="${BROKER_BIND:-127.0.0.1}" BROKER_PORT="${BROKER_PORT:-9092}"
export BROKER_CONTROLLER_PORT="${BROKER_CONTROLLER_PORT:-9093}"
if [ ! -f "$BROKER_DATA/meta.properties" ]; then
    "$bin/kafka-storage.sh" format --cluster-id "$("$bin/kafka-storage.sh" random-uuid)" --config "$properties"
fi
exec "$bin/kafka-server-start.sh" "$properties"
