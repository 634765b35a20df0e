package api

import "time"

// PathRedact masks a stream. GET PathRedactionRules?watch=true answers with
// RuleChange, one on each line.
const PathRedact = "/v1/redaction/redact"

// The scopes of a rule: who it comes from, and whose logs it is for.
const (
	ScopeBroker = "broker" // the shape of what the broker itself makes up; all logs
	ScopeServer = "server" // the server's configuration; all logs
	ScopeGrant  = "grant"  // a policy; the logs of jobs that have the grant
)

// RuleList answers GET /v1/redaction/rules.
type RuleList struct {
	Rules []Rule `json:"rules"`
}

// Rule is one pattern that must not appear in a log. Rules of values are not among
// them: who has a value needs none, and nobody else is told of it.
type Rule struct {
	ID      string     `json:"id"`
	Pattern string     `json:"pattern"` // RE2
	Scope   string     `json:"scope,omitempty"`
	Name    string     `json:"name,omitempty"` // of ScopeServer
	Policy  string     `json:"policy,omitempty"`
	Grant   string     `json:"grant,omitempty"`
	Owner   string     `json:"owner,omitempty"` // who answers for it
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"` // when it ends; absent: it isn't known yet
}

// The types of a RuleChange.
const (
	RulesAll       = "rules"     // the first line: Rules are all that apply
	RulesChanged   = "changed"   // Rules were added or are other than before, Removed apply no more
	RulesHeartbeat = "heartbeat" // nothing changed; comes every RulesBeat
	RulesEnd       = "end"       // the last line, where the server ends the stream: Reason says why
)

// RulesBeat is how often a watcher of rules hears of the server at least. One that
// hears nothing for several of them has lost it.
const RulesBeat = 15 * time.Second

// RuleChange is one line of GET /v1/redaction/rules?watch=true. A stream that ends
// without RulesEnd was cut off: the watcher comes again, and keeps what it has
// until then.
type RuleChange struct {
	Type    string   `json:"type"`
	Rules   []Rule   `json:"rules,omitempty"`
	Removed []string `json:"removed,omitempty"` // ids
	Reason  string   `json:"reason,omitempty"`  // of RulesEnd: session_ended, shutdown
}
