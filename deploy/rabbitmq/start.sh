#!/bin/bash
# Starts RabbitMQ with Meshwork's definitions and one user, whose name and password come from the environment
# (MESHWORK_AMQP_USER, MESHWORK_AMQP_PASSWORD). A node that loads definitions makes no default user, and definitions in
# a repository hold no secrets; so the user is added here, hashed, at every start. A changed password takes effect then.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${MESHWORK_RABBITMQ_FOLDER:-/var/lib/rabbitmq/meshwork}
: "${MESHWORK_AMQP_USER:?}" "${MESHWORK_AMQP_PASSWORD:?}"
[[ $MESHWORK_AMQP_USER =~ ^[A-Za-z0-9_.-]+$ ]] || { echo "MESHWORK_AMQP_USER: letters, digits, _ . - only" >&2; exit 2; }

version=${RABBITMQ_VERSION:-$(rabbitmqctl version)}
case $version in
  3.*) definitions=$here/definitions-3.10.json ;;
  *) definitions=$here/definitions.json ;;
esac

# RabbitMQ's own scheme: base64(salt + sha256(salt + password)). Erlang is there wherever RabbitMQ is.
hash=$(cd / && erl -noinput -noshell -eval '
  Password = unicode:characters_to_binary(os:getenv("MESHWORK_AMQP_PASSWORD")),
  Salt = crypto:strong_rand_bytes(4),
  io:put_chars(base64:encode_to_string(<<Salt/binary, (crypto:hash(sha256, <<Salt/binary, Password/binary>>))/binary>>)),
  halt().')

mkdir -p "$folder"
(
  umask 077
  {
    echo "{"
    echo "\"users\": [{\"name\": \"$MESHWORK_AMQP_USER\", \"password_hash\": \"$hash\", \"hashing_algorithm\": \"rabbit_password_hashing_sha256\", \"tags\": \"administrator\"}],"
    echo "\"permissions\": [{\"user\": \"$MESHWORK_AMQP_USER\", \"vhost\": \"meshwork\", \"configure\": \".*\", \"write\": \".*\", \"read\": \".*\"}],"
    tail -n +2 "$definitions"
  } > "$folder/definitions.json"
)
[[ $(id -u) != 0 ]] || chown -R rabbitmq "$folder"
unset MESHWORK_AMQP_PASSWORD

export RABBITMQ_CONFIG_FILE=${RABBITMQ_CONFIG_FILE:-$here/rabbitmq.conf}
export RABBITMQ_ENABLED_PLUGINS_FILE=${RABBITMQ_ENABLED_PLUGINS_FILE:-$here/enabled_plugins}
# Idle schedulers must not spin on a small machine.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=${RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS:-+sbwt none +sbwtdcpu none +sbwtdio none}

if command -v docker-entrypoint.sh > /dev/null; then
  exec docker-entrypoint.sh rabbitmq-server
fi
exec rabbitmq-server
