# daypass_get GRANT...: the credentials of these grants as variables, until this shell ends.
daypass_get() {
  query='format=env&session=true'
  for grant in "$@"; do query="$query&grant=$grant"; done
  key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  creds=$(printf 'Authorization: Bearer %s' "${DAYPASS_JOB_TOKEN:?}" |
    curl -sS --fail-with-body --retry 3 --max-time 120 -X POST -H @- -H "Idempotency-Key: $key" "${DAYPASS_URL:?}/v1/exchange?$query") || {
    printf 'no credentials: %s\n' "$creds" >&2
    return 1
  }
  eval "$creds"
  daypass_session=$DAYPASS_SESSION_TOKEN
  unset creds DAYPASS_SESSION_TOKEN DAYPASS_JOB_TOKEN
  trap daypass_end EXIT
  trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
}
daypass_end() {
  printf 'Authorization: Bearer %s' "$daypass_session" |
    curl -fsS --retry 3 --max-time 30 -o /dev/null -X POST -H @- "$DAYPASS_URL/v1/session/revoke" || :
}
