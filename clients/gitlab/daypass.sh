# Masks all that a GitLab job prints, and gives its script the credentials of the
# grants in DAYPASS_GRANTS (names with spaces between), until the script ends.
#
# GitLab takes no masks while a job runs. So this script, read by the job's own shell
# at the beginning ("before_script: [. ./daypass.sh]"), sends the shell's output to a
# pipe, and has `daypass exec` run what reads that pipe: exec knows the values and
# masks them in every form. When the shell ends, the credentials are given back.
#
# For sh, dash, busybox and bash. The job's token is taken from the variable that
# DAYPASS_TOKEN_ENV names (DAYPASS_JOB_TOKEN), which is unset: the script's programs can't
# ask for more. Where daypass ends early, printing fails, and so does the job.
#
# shellcheck shell=sh

daypass_fail() {
	echo "daypass.sh: $1" >&2
	exit "${2:-1}"
}

[ -n "${DAYPASS_GRANTS:-}" ] || daypass_fail "DAYPASS_GRANTS is not set: name the grants, with spaces between"
command -v daypass >/dev/null || daypass_fail "there is no daypass in this image's PATH" 127
daypass_dir=$(umask 077 && mktemp -d) || daypass_fail "no place for a pipe: mktemp failed"
mkfifo -m 600 "$daypass_dir/out" || daypass_fail "no pipe: mkfifo failed"

# What runs under exec tells its environment, in a file that this user alone can
# read and that is gone in a moment, and then passes on what the job prints.
# shellcheck disable=SC2016 # it is the inner shell that expands it
daypass_inner='umask 077; export -p >"$1/env.new" && mv "$1/env.new" "$1/env" && exec cat "$1/out"'
# shellcheck disable=SC2046,SC2086 # grants are words
daypass exec --token-env "${DAYPASS_TOKEN_ENV:-DAYPASS_JOB_TOKEN}" $(printf -- '--grant %s ' $DAYPASS_GRANTS) -- \
	sh -c "$daypass_inner" sh "$daypass_dir" </dev/null &
daypass_pid=$!
until [ -e "$daypass_dir/env" ]; do
	if ! kill -0 "$daypass_pid" 2>/dev/null; then
		daypass_status=0
		wait "$daypass_pid" || daypass_status=$?
		rm -rf "$daypass_dir"
		[ "$daypass_status" -ne 0 ] || daypass_status=1
		daypass_fail "no credentials, so the script does not begin" "$daypass_status"
	fi
	sleep 0.1 2>/dev/null || sleep 1
done

# The pipe ends when the last program that the job left running has closed it, so
# that is waited for some seconds only.
daypass_end() {
	daypass_status=$?
	trap - EXIT
	exec >/dev/null 2>&1
	daypass_left=${DAYPASS_DRAIN_SECONDS:-10}
	while [ "$daypass_left" -gt 0 ] && kill -0 "$daypass_pid"; do
		sleep 0.2 || sleep 1
		daypass_tick=$((${daypass_tick:-0} + 1))
		[ $((daypass_tick % 5)) -ne 0 ] || daypass_left=$((daypass_left - 1))
	done
	kill "$daypass_pid" || :
	wait "$daypass_pid" || :
	rm -rf "$daypass_dir"
	exit "$daypass_status"
}
trap daypass_end EXIT

exec >"$daypass_dir/out" 2>&1
# Only now: a shell that traces what it does (CI_DEBUG_TRACE) shows the values here.
# shellcheck disable=SC1091 # made above
. "$daypass_dir/env"
rm -f "$daypass_dir/env"
unset "${DAYPASS_TOKEN_ENV:-DAYPASS_JOB_TOKEN}"
