#!/bin/sh
# The main job of Daypass, shown on this machine: job tokens in, a database user
# and a signed JWT out, and nothing left behind. Every step is checked: the
# script ends with an error as soon as one doesn't hold. Run it by `make demo`.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
bin=${DAYPASS_DEMO_BIN:-$here/build/bin}
work=$(mktemp -d "${TMPDIR:-/tmp}/daypass-demo.XXXXXX")
broker=
sleeper=

finish() {
	status=$?
	trap - EXIT INT TERM
	[ -z "$sleeper" ] || kill "$sleeper" 2>/dev/null || true
	if [ -n "$broker" ]; then
		kill "$broker" 2>/dev/null || true
		wait "$broker" 2>/dev/null || true
	fi
	if [ "$status" -ne 0 ]; then
		echo "demo: stopped by an error. What the broker said last:" >&2
		tail -n 15 "$work/dev/daypassd.log" >&2 2>/dev/null || cat "$work/banner" >&2 2>/dev/null || true
	fi
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }
show() { sed 's/^/    /'; }
fail() {
	echo "demo: $*" >&2
	exit 1
}
# until_true SECONDS COMMAND…: tries until it succeeds
until_true() {
	tries=$(($1 * 5))
	shift
	while ! "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.2
	done
}
# field NAME: one string out of the JSON on standard input
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' | head -n 1; }
user_exists() { [ "$(as_admin "SELECT count(*) FROM pg_roles WHERE rolname = '$1'")" = 1 ]; }
user_is_gone() { ! user_exists "$1"; }
as_admin() { PGPASSWORD=$admin_password psql -XAtq -h "$admin_host" -p "$admin_port" -U postgres -d payments -c "$1"; }
# call DESCRIPTION-FREE curl: silent, fails on HTTP errors, shows them
call() { curl --silent --show-error --fail-with-body --max-time 20 "$@"; }

say "1. A broker starts, with a private Postgres, keys in an HSM, and a demo OIDC provider"
"$bin/daypassd" dev --dir "$work/dev" --ephemeral >"$work/banner" 2>&1 &
broker=$!
until_true 60 test -f "$work/dev/dev.env" || {
	cat "$work/banner" >&2
	fail "the broker did not start within a minute"
}
# shellcheck disable=SC1091 # made by the broker
. "$work/dev/dev.env"
echo "at $DAYPASS_URL, keys in $DAYPASS_DEV_KEYS" | show
admin_host=$DAYPASS_DEV_PGHOST admin_port=$DAYPASS_DEV_PGPORT admin_password=$(cat "$DAYPASS_DEV_PGPASSWORD_FILE")

say "2. A GitHub job gets its OIDC token, and exchanges it with plain curl"
github=$(call "${DAYPASS_DEV_TOKEN_URL}github")
echo "$github" | cut -d. -f2 | tr '_-' '/+' | awk '{ while (length($0) % 4) $0 = $0 "="; print }' | base64 -d | tr ',' '\n' |
	grep -E '"(sub|repository|repository_id|ref|run_attempt|aud)"' | tr -d '{}' | show
answer=$(call -X POST -H "Authorization: Bearer $github" "$DAYPASS_URL/v1/exchange?grant=payments/deploy-db&grant=payments/sign-release")
session=$(echo "$answer" | field token)
session=$(echo "$answer" | sed -n 's/^{"session":{[^}]*"token":"\([^"]*\)".*/\1/p')
user=$(echo "$answer" | field PGUSER)
password=$(echo "$answer" | field PGPASSWORD)
jwt=$(echo "$answer" | field DAYPASS_JWT)
[ -n "$session" ] && [ -n "$user" ] && [ -n "$password" ] && [ -n "$jwt" ] || fail "the answer lacks a credential"
echo "it got the database user $user and a JWT, each with an end of its own" | show

say "3. It logs in to Postgres with that user"
job() { PGPASSWORD=$password psql -XAtq -h "$admin_host" -p "$admin_port" -U "$user" -d payments "$@"; }
job -c "SET ROLE payments_deploy; INSERT INTO payments.ledger (cents) VALUES (4711)" || fail "the user can't do its work"
job -c "SELECT 'logged in as ' || current_user || ', sees ' || count(*) || ' row' FROM payments.ledger" | show

say "4. The JWT verifies by the broker's own discovery and JWKS, with another library"
printf %s "$jwt" | "$bin/verifyjwt" -issuer "$DAYPASS_URL" -audience https://releases.example.com | show

say "5. A GitLab job runs its deploy under \`daypass exec\`; this is what its log shows"
call "${DAYPASS_DEV_TOKEN_URL}gitlab" >"$work/gitlab.token"
cat >"$work/deploy.sh" <<'DEPLOY'
echo "connecting to $PGHOST as $PGUSER with password $PGPASSWORD"
printf 'in two writes: '; printf %.9s "$PGPASSWORD"; sleep 0.1; printf '%s\n' "${PGPASSWORD#?????????}"
echo "found in a config file: pay_live_abcdefghijklmnopqrstuvwx"
psql -XAtq -c "SELECT 'deploying as ' || current_user"
printf %s "$PGPASSWORD" >"$DEMO_OUT"
DEPLOY
DEMO_OUT=$work/leaked "$bin/daypass" exec --url "$DAYPASS_URL" --token-file "$work/gitlab.token" --grant payments/deploy-db -- sh "$work/deploy.sh" >"$work/job.log" 2>&1 ||
	fail "daypass exec failed: $(cat "$work/job.log")"
show <"$work/job.log"
grep -q "deploying as dp_" "$work/job.log" || fail "the child had no credentials"
grep -qF "$(cat "$work/leaked")" "$work/job.log" && fail "the password stands in the log"
grep -q "pay_live_abc" "$work/job.log" && fail "the policy's pattern was not masked"
gitlab_user=$(sed -n 's/.*deploying as \(dp_[a-z0-9_]*\).*/\1/p' "$work/job.log")
until_true 10 user_is_gone "$gitlab_user" || fail "the GitLab job's user outlived the job"
echo "-- and when the job ended, its user was taken away: $gitlab_user is gone" | show

say "6. The GitHub job gives everything back, while one of its connections is still open"
job -c "SELECT 'still here' FROM pg_sleep(120)" >"$work/sleeper" 2>&1 &
sleeper=$!
is_connected() { [ "$(as_admin "SELECT count(*) FROM pg_stat_activity WHERE usename = '$user'")" -ge 1 ]; }
until_true 10 is_connected || fail "the open connection did not open"
call -X POST -H "Authorization: Bearer $session" "$DAYPASS_URL/v1/session/revoke" | sed 's/,"leases.*/, …}/' | show
echo
wait "$sleeper" && fail "the open connection outlived the revocation"
sleeper=
echo "the open connection: $(grep -i -m1 terminating "$work/sleeper" || head -n 1 "$work/sleeper")" | show
user_is_gone "$user" || fail "the user is still there"
job -c "SELECT 1" >"$work/login" 2>&1 && fail "the user can still log in"
echo "a new login: $(grep -o 'FATAL.*' "$work/login" | head -n 1)" | show
[ "$(as_admin "SELECT count(*) FROM payments.ledger")" = 1 ] || fail "the job's work was lost with its user"
echo "what the job wrote is still there: 1 row" | show

say "7. A third lease, of ten seconds, runs out by itself"
token=$(call "${DAYPASS_DEV_TOKEN_URL}github")
answer=$(call -H "Authorization: Bearer $token" -d '{"grants":[{"name":"payments/deploy-db","ttl":"10s"}]}' "$DAYPASS_URL/v1/exchange")
short=$(echo "$answer" | field PGUSER)
user_exists "$short" || fail "the user was not made"
echo "$short is there until $(echo "$answer" | sed -n 's/.*"lease_id"[^}]*"expires_at":"\([^"]*\)".*/\1/p')" | show
until_true 60 user_is_gone "$short" || fail "the lease ran out, and its user is still there"
echo "and now ($(date -u +%H:%M:%SZ)) it is gone" | show

say "8. What a job of somebody else gets"
token=$(call "${DAYPASS_DEV_TOKEN_URL}github&claim.repository_id=666&claim.repository_owner_id=667")
curl --silent --max-time 20 -X POST -H "Authorization: Bearer $token" "$DAYPASS_URL/v1/exchange?grant=payments/deploy-db" >"$work/denied"
grep -q '"code":"not_allowed"' "$work/denied" || fail "a stranger was not refused: $(cat "$work/denied")"
sed 's/.*"detail":"\([^"]*\)","code":"\([^"]*\)".*/403 \2: \1/' "$work/denied" | show

[ "$(as_admin "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dp\_%'")" = 0 ] || fail "users were left on the target"

cat <<'PAGE'

What happened
    A CI job proved who it is with a token that its provider signs for it. No
    secret was stored in the pipeline. A policy file said which jobs may have
    what; for one of them the broker wrote down a lease, made a database user
    under that lease's name, signed a JWT with a key that never left its HSM, and
    handed both out. Each said by when it ends. Given back, run out, or its job
    gone: the user was barred, its open connections cut, what it owned handed to
    the service's owner, and the user dropped. None is left on the target.

    Look closer:  make dev    (leaves a broker running, and prints what to try)
    Read on:      README.md, docs/architecture.md, docs/threat-model.md
PAGE
