#!/bin/sh
# The first step of docker-compose.yml: makes passwords, a SoftHSM token and the configuration, unless a former run has.
set -eu
umask 077
state=${DAYPASS_STATE:-/var/lib/daypass}
db=${DAYPASS_DB_SECRET:-/var/lib/daypass-db}
config=$state/daypass.yaml
[ ! -e "$config" ] || exit 0

# 32 random bytes in hexadecimal.
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# Kept when a former run was cut short: Postgres may have been made with it.
[ -s "$db/password" ] || random >"$db/password"
chmod 0444 "$db/password" # the volume is mounted in Postgres alone, which reads it as another user
printf 'postgres://daypass:%s@postgres:5432/daypass?sslmode=disable\n' "$(cat "$db/password")" >"$state/db-url"

rm -rf "$state/tokens"
mkdir -p "$state/tokens" "$state/policies"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$state/tokens" >"$state/softhsm2.conf"
random | cut -c1-32 >"$state/hsm-pin"
random | cut -c1-32 >"$state/hsm-so-pin"
SOFTHSM2_CONF=$state/softhsm2.conf softhsm2-util --init-token --free --label daypass \
	--pin "$(cat "$state/hsm-pin")" --so-pin "$(cat "$state/hsm-so-pin")"

keys="type: pkcs11, module: /usr/lib/softhsm/libsofthsm2.so, token: daypass, pin_file: $state/hsm-pin"
cat >"$config.new" <<YAML
listen: 0.0.0.0:8443
insecure_http: true # the port is published on this machine alone; write tls: {cert_file: …, key_file: …} instead for more
external_url: http://127.0.0.1:8443
database: {url_file: $state/db-url}
keys:
  signing: {$keys, algorithm: ES256}
  sealing: {$keys}
providers:
  - {name: github, type: github, issuer: https://token.actions.githubusercontent.com, audience: http://127.0.0.1:8443}
policies: {dir: $state/policies}
YAML
mv "$config.new" "$config"
