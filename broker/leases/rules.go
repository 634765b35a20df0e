package leases

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/jackc/pgx/v5"
)

// Rule is a pattern that must not appear in a log: a grant's, or (without policy
// and grant) one of the server's configuration.
type Rule struct {
	ID, Policy, Grant, Pattern string

	Name  string // of one of the configuration
	Owner string // who answers for it
	Since time.Time
	Until *time.Time // when it ends; nil: it isn't known yet
}

// The scopes of rules, as they are stored.
const (
	scopeGrant  = "grant"
	scopeServer = "server"
)

func (r *Rule) scope() string {
	if r.Policy == "" {
		return scopeServer
	}
	return scopeGrant
}

// GrantRule is a rule of a grant. Its id derives from what it says: the same rule
// has the same id on every broker.
func GrantRule(policy, grant, pattern string) Rule {
	return Rule{ID: ruleID(policy, grant, pattern), Policy: policy, Grant: grant, Pattern: pattern}
}

// ServerRule is a rule of the server's configuration.
func ServerRule(name, pattern string) Rule {
	return Rule{ID: ruleID("", name, pattern), Name: name, Pattern: pattern}
}

func ruleID(policy, name, pattern string) string {
	sum := sha256.Sum256([]byte(policy + "\x00" + name + "\x00" + pattern))
	return hex.EncodeToString(sum[:8])
}

// maxRules is how many rules are read at once, at the most.
const maxRules = 10_000

const ruleColumns = `r.id, r.policy, r.grant_name, r.pattern, r.name, r.owner, r.created_at, r.until`

// RulesOf reads the rules for the logs of one session token's leases: the patterns
// that their grants had when they were issued, those that they have now, and the
// server's own.
func (s *Store) RulesOf(ctx context.Context, tokenHash [32]byte) ([]Rule, error) {
	return s.rules(ctx, `
WITH held AS (
    SELECT l.policy, l.grant_name, l.rules FROM leases l
    WHERE l.tenant = $1 AND l.session_token = $2 AND l.session_id = (SELECT session_id FROM session_tokens WHERE hash = $2)
)
SELECT `+ruleColumns+` FROM redaction_rules r
WHERE r.tenant = $1 AND (r.until IS NULL OR r.until > $3) AND (r.scope = '`+scopeServer+`'
    OR EXISTS (SELECT FROM held h WHERE r.id = ANY (h.rules) OR (h.policy = r.policy AND h.grant_name = r.grant_name)))
ORDER BY r.id LIMIT $4`, s.config.Tenant, tokenHash[:], s.Now(), maxRules)
}

// Rules reads all rules that have not ended, ten thousand at the most.
func (s *Store) Rules(ctx context.Context) ([]Rule, error) {
	return s.rules(ctx, `SELECT `+ruleColumns+` FROM redaction_rules r WHERE r.tenant = $1 AND (r.until IS NULL OR r.until > $2) ORDER BY r.id LIMIT $3`, s.config.Tenant, s.Now(), maxRules)
}

func (s *Store) rules(ctx context.Context, sql string, args ...any) ([]Rule, error) {
	rows, err := s.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, unavailable("reading redaction rules", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Rule])
	if err != nil {
		return nil, unavailable("reading redaction rules", err)
	}
	return found, nil
}

// KeepRules puts the rules in force on record, and gives those that are no longer
// among them an end: what was written while they were in force is masked for as long
// as it is kept. It says whether anything changed. Of brokers that disagree, while a
// change goes through the fleet, the last one is right.
func (s *Store) KeepRules(ctx context.Context, inForce []Rule, end time.Time) (changed bool, err error) {
	const keep = `
WITH wanted AS (
    SELECT DISTINCT ON (id) * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
        AS w(id, policy, grant_name, pattern, scope, name, owner, until) ORDER BY id
), kept AS (
    INSERT INTO redaction_rules AS r (id, tenant, policy, grant_name, pattern, created_at, scope, name, owner, until)
    SELECT id, $1, policy, grant_name, pattern, $10, scope, name, owner, until FROM wanted ORDER BY id
    ON CONFLICT (id) DO UPDATE SET scope = excluded.scope, name = excluded.name, owner = excluded.owner, until = excluded.until
    WHERE (r.scope, r.name, r.owner, r.until) IS DISTINCT FROM (excluded.scope, excluded.name, excluded.owner, excluded.until)
    RETURNING 1
), ended AS (
    UPDATE redaction_rules r SET until = $11 WHERE r.tenant = $1 AND r.until IS NULL AND r.id <> ALL ($2) RETURNING 1
)
SELECT (SELECT count(*) FROM kept) + (SELECT count(*) FROM ended)`
	var n int
	err = s.config.Pool.QueryRow(ctx, keep, s.config.Tenant,
		column(inForce, func(r Rule) string { return r.ID }),
		column(inForce, func(r Rule) string { return r.Policy }),
		column(inForce, func(r Rule) string { return r.Grant }),
		column(inForce, func(r Rule) string { return r.Pattern }),
		column(inForce, func(r Rule) string { return r.scope() }),
		column(inForce, func(r Rule) string { return r.Name }),
		column(inForce, func(r Rule) string { return r.Owner }),
		column(inForce, func(r Rule) *time.Time { return r.Until }),
		s.Now(), end).Scan(&n)
	if err != nil {
		return false, unavailable("keeping redaction rules", err)
	}
	return n > 0, nil
}
