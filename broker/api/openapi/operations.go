package openapi

import "github.com/daypass/daypass/broker/api"

// Who may call: kinds of tokens.
type Who string

// The kinds of tokens.
const (
	Job        Who = "jobToken"
	Session    Who = "sessionToken"
	Revocation Who = "revocationToken"
	Admin      Who = "adminToken"
)

// Operation is one call of the API.
type Operation struct {
	Method, Path, ID, Summary, Description string

	Who          []Who  // any of them; nobody has to show a token when nil
	Role         string // that an admin needs
	Parameters   []Parameter
	Body         any    // a value of its type; none when nil
	BodyOptional bool   // of Body
	BodyType     string // of a body that is no JSON
	Answer       any    // a value of its type; none when nil
	Or           any    // another one, where the path decides; none when nil
	AnswerTypes  []string
	Statuses     []int // 200 when nil
}

// reasonBody is the body of what may have a reason.
type reasonBody struct {
	Reason string `json:"reason,omitempty"`
}

// Parameter is one of the query, or a header.
type Parameter struct {
	Name, Description string

	Enum         []string
	Many, Number bool
	Header       bool
}

func pathParameters() map[string]string {
	return map[string]string{
		"id": "Of the lease, or the job: lse_…, job_….", "issuer": "Name of the issuer in the server's configuration.",
		"document": "Name of the document: ca.pem, crl.pem, krl …", "name": "Name of the secret, which has slashes of its own; a verb stands behind a colon: payments/stripe-key:promote.",
		"question": "The OCSP request in base64 (RFC 6960 §A.1).",
	}
}

func text(name, description string) Parameter {
	return Parameter{Name: name, Description: description}
}

// paged adds what every list takes.
func paged(parameters ...Parameter) []Parameter {
	return append(parameters, text("cursor", "The next of the page before."), Parameter{Name: "limit", Description: "Entries of a page, 1 to 1000.", Number: true})
}

// Operations are all calls of the native API.
func Operations() []Operation {
	var all []Operation
	for _, group := range [][]Operation{ofJobs(), ofLeases(), ofLeaks(), ofOAuth(), ofAudit(), ofPolicies(), ofFleet(), ofSecrets(), ofTargets(), published()} {
		all = append(all, group...)
	}
	return all
}

func ofJobs() []Operation {
	return []Operation{{
		Method: "POST", Path: api.PathExchange, ID: "exchange", Summary: "Give a job token for credentials",
		Description: "All or nothing: when one grant can't be had, none is issued. Grants stand in the body, or in the query with formats for shells. " +
			"With a session token it asks for more, of the grants of the exchange that made it.",
		Who: []Who{Job, Session},
		Parameters: []Parameter{
			{Name: "grant", Description: "POLICY/GRANT, in place of a body; 16 at most.", Many: true},
			{Name: "format", Description: "How the answer is written.", Enum: []string{"json", "env", "dotenv", "github", "value"}},
			text("field", "Of format=value: which value, where there are several secrets."),
			{Name: "session", Description: "true adds DAYPASS_SESSION_TOKEN to env, dotenv and github.", Enum: []string{"true", "false"}},
			{Name: api.HeaderDPoP, Description: "A proof of a key (RFC 9449), to which the session token, and the tokens among the credentials, are bound.", Header: true},
			{Name: api.HeaderPrefer, Description: api.PreferRevocationToken + " asks for session.revocation_token (RFC 7240).", Header: true},
			{Name: api.HeaderIdempotencyKey, Description: "The same for each try of one exchange: what an earlier try issued is taken back.", Header: true},
		},
		Body: api.ExchangeRequest{}, BodyOptional: true, Answer: api.ExchangeResponse{}, AnswerTypes: []string{"text/plain"},
	}, {
		Method: "GET", Path: api.PathSession, ID: "getSession", Summary: "What a session token obtained", Who: []Who{Session}, Answer: api.SessionInfo{},
	}, {
		Method: "POST", Path: api.PathSessionRevoke, ID: "revokeSession", Summary: "Give back all that a session token obtained",
		Description: "200 when all was taken back within five seconds, else 202: the broker goes on with it.",
		Who:         []Who{Session, Revocation}, Body: reasonBody{}, BodyOptional: true, Answer: api.RevokeResponse{}, Statuses: []int{200, 202},
	}}
}

func ofLeases() []Operation {
	return []Operation{{
		Method: "GET", Path: api.PathLeases, ID: "listLeases", Summary: "Leases, newest first", Who: []Who{Session, Admin}, Role: "viewer",
		Parameters: paged(text("policy", ""), text("grant", "GRANT, or POLICY/GRANT."), text("issuer", ""), text("session", ""), text("subject", "The job token's sub."), text("provider", ""),
			text("state", "issuing, active, revoking, revoked, expired, forgotten, stuck."), text("target", ""), text("expires_before", "RFC 3339.")),
		Answer: api.LeaseList{},
	}, {
		Method: "GET", Path: api.PathLeases + "/{id}", ID: "getLease", Summary: "One lease", Who: []Who{Session, Admin}, Role: "viewer", Answer: api.Lease{},
	}, {
		Method: "POST", Path: api.PathLeases + "/{id}/renew", ID: "renewLease", Summary: "A later end, within the policy's max_ttl", Who: []Who{Session, Admin}, Role: "operator",
		Body: api.RenewRequest{}, BodyOptional: true, Answer: api.Lease{},
	}, {
		Method: "POST", Path: api.PathLeases + "/{id}/revoke", ID: "revokeLease", Summary: "Take one lease back; may be repeated", Who: []Who{Session, Admin}, Role: "operator",
		Body: api.RevokeRequest{}, BodyOptional: true, Answer: api.RevokeResponse{}, Statuses: []int{200, 202},
	}, {
		Method: "POST", Path: api.PathLeases + "/{id}/forget", ID: "forgetLease", Summary: "Give up on a stuck one; alerts", Who: []Who{Admin}, Role: "operator",
		Body: reasonBody{}, Answer: api.Lease{},
	}, {
		Method: "POST", Path: api.PathLeasesRevoke, ID: "revokeLeases", Summary: "Take many leases back, in the background", Who: []Who{Admin}, Role: "operator",
		Body: api.MassRevokeRequest{}, Answer: api.MassRevokeResponse{}, Statuses: []int{200, 202},
	}, {
		Method: "GET", Path: api.PathJobs, ID: "listJobs", Summary: "Revocations of many leases, newest first", Who: []Who{Admin}, Role: "viewer", Parameters: paged(), Answer: api.JobList{},
	}, {
		Method: "GET", Path: api.PathJobs + "/{id}", ID: "getJob", Summary: "One of them", Who: []Who{Admin}, Role: "viewer", Answer: api.Job{},
	}, {
		Method: "POST", Path: api.PathJobs + "/{id}/pause", ID: "pauseJob", Summary: "Let it wait", Who: []Who{Admin}, Role: "operator", Answer: api.Job{},
	}, {
		Method: "POST", Path: api.PathJobs + "/{id}/resume", ID: "resumeJob", Summary: "Let it go on", Who: []Who{Admin}, Role: "operator", Answer: api.Job{},
	}}
}

func ofLeaks() []Operation {
	const stream = "application/octet-stream"
	return []Operation{{
		Method: "GET", Path: api.PathRedactionRules, ID: "listRedactionRules", Summary: "Patterns that must not stand in a log",
		Description: "With watch=true the answer is a stream, one RuleChange on each line.",
		Who:         []Who{Session, Admin}, Role: "viewer",
		Parameters: []Parameter{{Name: "watch", Description: "true goes on with what changes.", Enum: []string{"true", "false"}}},
		Answer:     api.RuleList{}, AnswerTypes: []string{"application/x-ndjson"},
	}, {
		Method: "POST", Path: api.PathRedact, ID: "redact", Summary: "Mask a text as it comes", Description: "The answer begins before the text has ended.",
		Who: []Who{Session, Admin}, Role: "redactor", BodyType: stream, AnswerTypes: []string{stream},
	}, {
		Method: "POST", Path: api.PathLeaks, ID: "findLeaks", Summary: "Whose secrets stand in a text; never the values", Who: []Who{Session, Admin}, Role: "redactor",
		Parameters: []Parameter{
			{Name: "revoke", Description: "true takes back what is found.", Enum: []string{"true", "false"}}, text("source", "Where the text is from, for the audit log."),
		},
		BodyType: stream, Answer: api.LeaksResponse{},
	}, {
		Method: "POST", Path: api.PathLeaksGitHub, ID: "reportFromGitHub", Summary: "What GitHub's secret scanning found, signed by it", BodyType: "application/json", AnswerTypes: []string{"application/json"},
	}, {
		Method: "GET", Path: api.PathLeaksGitLabTypes, ID: "gitLabTypes", Summary: "What GitLab may report", AnswerTypes: []string{"application/json"},
	}, {
		Method: "POST", Path: api.PathLeaksGitLab, ID: "reportFromGitLab", Summary: "What GitLab's secret detection found", BodyType: "application/json", AnswerTypes: []string{"application/json"},
	}}
}

func ofOAuth() []Operation {
	const form = "application/x-www-form-urlencoded"
	return []Operation{{
		Method: "POST", Path: api.PathOAuthToken, ID: "oauthToken", Summary: "Exchange a job token for the token of one grant (RFC 8693)", BodyType: form, Answer: api.TokenResponse{},
		Parameters: []Parameter{{Name: api.HeaderDPoP, Description: "A proof of a key (RFC 9449), to which the token is bound.", Header: true}},
	}, {
		Method: "POST", Path: api.PathOAuthIntrospect, ID: "introspect", Summary: "What a token is good for (RFC 7662); for resource servers of the configuration", BodyType: form, Answer: api.Introspection{},
	}, {
		Method: "POST", Path: api.PathOAuthRevoke, ID: "oauthRevoke", Summary: "End a token by holding it (RFC 7009)", BodyType: form,
	}, {
		Method: "GET", Path: api.PathOAuthMetadata, ID: "oauthMetadata", Summary: "What the OAuth calls can do (RFC 8414)", Answer: api.AuthorizationServer{},
	}}
}

func ofAudit() []Operation {
	return []Operation{{
		Method: "GET", Path: api.PathAudit, ID: "listEvents", Summary: "The audit log, newest first", Who: []Who{Admin}, Role: "viewer",
		Parameters: paged(text("subject", "Id of the lease, session or token that events are about.")), Answer: api.EventList{},
	}, {
		Method: "GET", Path: api.PathAuditCheckpoint, ID: "getCheckpoint", Summary: "The last checkpoint of the log, a signed note", Who: []Who{Admin}, Role: "viewer", AnswerTypes: []string{"text/plain"},
	}, {
		Method: "GET", Path: api.PathAuditExport, ID: "exportAudit", Summary: "The log as JSON lines, for `daypass audit verify`", Who: []Who{Admin}, Role: "viewer",
		Parameters: []Parameter{{Name: "from", Description: "Number of the first event; 0 when absent.", Number: true}, {Name: "to", Description: "Number behind the last one.", Number: true}}, AnswerTypes: []string{"application/jsonl"},
	}}
}

func ofPolicies() []Operation {
	return []Operation{{
		Method: "POST", Path: api.PathPoliciesReload, ID: "reloadPolicies", Summary: "Load the policy folder", Who: []Who{Admin}, Role: "operator", Body: api.ReloadRequest{}, BodyOptional: true, Answer: api.ReloadResponse{},
	}, {
		Method: "POST", Path: api.PathPoliciesExplain, ID: "explain", Summary: "Why a job gets a grant, or doesn't", Who: []Who{Admin}, Role: "viewer", Body: api.ExplainRequest{}, Answer: api.Explanation{},
	}, {
		Method: "GET", Path: api.PathDecisions, ID: "listDecisions", Summary: "Decisions on record, oldest first", Who: []Who{Admin}, Role: "viewer",
		Parameters: paged(text("since", "RFC 3339.")), Answer: api.DecisionList{},
	}}
}

func ofFleet() []Operation {
	return []Operation{{
		Method: "GET", Path: api.PathSwitches, ID: "listSwitches", Summary: "What is turned off", Who: []Who{Admin}, Role: "viewer", Answer: api.SwitchList{},
	}, {
		Method: "POST", Path: api.PathSwitches, ID: "turn", Summary: "Turn a provider, policy, grant or issuer off, or on again", Who: []Who{Admin}, Role: "operator", Body: api.SwitchRequest{}, Answer: api.Switch{},
	}, {
		Method: "GET", Path: api.PathBrokers, ID: "listBrokers", Summary: "The brokers of the fleet", Who: []Who{Admin}, Role: "viewer", Answer: api.BrokerList{},
	}}
}

func ofSecrets() []Operation {
	return []Operation{{
		Method: "GET", Path: api.PathSecrets, ID: "listSecrets", Summary: "Static secrets, by name; never values", Who: []Who{Admin}, Role: "viewer", Parameters: paged(), Answer: api.SecretList{},
	}, {
		Method: "GET", Path: api.PathSecrets + "/{name}", ID: "getSecret", Summary: "One secret; with :reads who read it", Who: []Who{Admin}, Role: "viewer",
		Parameters: paged(Parameter{Name: "version", Description: "Of :reads alone, as are the others.", Number: true}), Answer: api.Secret{}, Or: api.SecretReadList{},
	}, {
		Method: "PUT", Path: api.PathSecrets + "/{name}", ID: "putSecret", Summary: "Make or change a secret, or give it a pending version", Who: []Who{Admin}, Role: "operator", Body: api.SecretPut{}, Answer: api.Secret{},
	}, {
		Method: "POST", Path: api.PathSecrets + "/{name}", ID: "changeSecret", Summary: "NAME:verify, :promote, :rollback, :destroy, :rotate", Who: []Who{Admin}, Role: "operator", Body: api.SecretChange{}, BodyOptional: true, Answer: api.Secret{},
	}}
}

func ofTargets() []Operation {
	return []Operation{{
		Method: "GET", Path: api.PathTargets, ID: "listTargets", Summary: "Issuers that make something on a target", Who: []Who{Admin}, Role: "viewer", Answer: api.TargetList{},
	}, {
		Method: "GET", Path: api.PathTargets + "/{issuer}", ID: "getTarget", Summary: "What differs between a target and the leases", Who: []Who{Admin}, Role: "viewer", Answer: api.TargetReport{},
	}, {
		Method: "POST", Path: api.PathTargets + "/{issuer}/reconcile", ID: "reconcile", Summary: "Compare them now, and take back what no lease knows", Who: []Who{Admin}, Role: "operator",
		Body: api.ReconcileRequest{}, BodyOptional: true, Answer: api.TargetReport{}, Statuses: []int{200, 202},
	}}
}

func published() []Operation {
	return []Operation{{
		Method: "GET", Path: api.PathIssuers + "/{issuer}/{document}", ID: "getDocument", Summary: "A document of an issuer: CA, CRL, KRL", AnswerTypes: []string{"application/octet-stream"},
	}, {
		Method: "POST", Path: api.PathIssuers + "/{issuer}/ocsp", ID: "askOCSP", Summary: "OCSP (RFC 6960)", BodyType: "application/ocsp-request", AnswerTypes: []string{"application/ocsp-response"},
	}, {
		Method: "GET", Path: api.PathIssuers + "/{issuer}/ocsp/{question}", ID: "askOCSPInPath", Summary: "OCSP, asked in the path", AnswerTypes: []string{"application/ocsp-response"},
	}, {
		Method: "GET", Path: api.PathDiscovery, ID: "discovery", Summary: "What verifies minted JWTs (OpenID Connect Discovery)", Answer: api.AuthorizationServer{},
	}, {
		Method: "GET", Path: api.PathJWKS, ID: "jwks", Summary: "The public keys (RFC 7517)", Answer: map[string]any{},
	}, {
		Method: "GET", Path: api.PathOpenAPI, ID: "openAPI", Summary: "This document", Answer: map[string]any{},
	}, {
		Method: "GET", Path: api.PathLive, ID: "live", Summary: "Liveness", Answer: map[string]any{},
	}, {
		Method: "GET", Path: api.PathReady, ID: "ready", Summary: "Readiness: database, keys, policies; issuers", Answer: map[string]any{}, Statuses: []int{200, 503},
	}, {
		Method: "GET", Path: api.PathMetrics, ID: "metrics", Summary: "Prometheus metrics", AnswerTypes: []string{"text/plain"},
	}}
}
