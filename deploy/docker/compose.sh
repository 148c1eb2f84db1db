#!/usr/bin/env bash
# `make up` with Docker: builds, starts, waits for health, prints where everything is.
set -euo pipefail
cd "$(dirname "$0")/../.."
docker compose -f local.yml up --build --detach --wait --wait-timeout 300
cat <<TEXT
API         http://127.0.0.1:8000/api/v1   (X-API-Key: MESHWORK_API_KEY, change-me where it is not set)
docs        http://127.0.0.1:8000/docs
RabbitMQ    http://127.0.0.1:15672         (user meshwork, MESHWORK_AMQP_PASSWORD)
MinIO       http://127.0.0.1:9001          (user meshwork, MESHWORK_S3_SECRET_KEY)
TEXT
