package leases

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

const (
	// What is counted is locked until the commit, so that of two brokers the second
	// one sees what the first has taken. The transaction's own number comes before
	// anything that it may have to wait for: see settle.
	lockGrants = `
SELECT pg_advisory_xact_lock($2)
UNION ALL
SELECT pg_advisory_xact_lock(hashtextextended('daypass max_active ' || name, 0))
FROM (SELECT DISTINCT unnest($1::text[]) AS name ORDER BY 1) AS wanted`

	// The same by numbers, in the order that they come in: see lockOf.
	lockNumbers = `SELECT count(pg_advisory_xact_lock(number)) FROM unnest($1::bigint[]) AS wanted(number)`

	// Neither a token that came before nor one with the jti of another opens a
	// session; the next statement tells which it was. A token's digest decides its
	// jti, so that in this order no two transactions wait for each other.
	//
	// What is refused for its time opens none either: see the verdicts below.
	openSessions = `
INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, events)
SELECT id, $1, provider, issuer, digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, 1
FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::json[], $8::bytea[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[],
     $12::bytea[], $13::bytea[], $14::timestamptz[])
     AS wanted(id, provider, issuer, digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, now)
WHERE abs(extract(epoch FROM transaction_timestamp() - $15::timestamptz)) <= $16 AND now >= $15::timestamptz - $17::interval
ORDER BY jti, digest
ON CONFLICT DO NOTHING`

	saveRules = `
INSERT INTO redaction_rules (id, tenant, policy, grant_name, pattern, created_at)
SELECT DISTINCT ON (id) id, $1, policy, grant_name, pattern, now
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[]) AS w(id, policy, grant_name, pattern, now) ORDER BY id
ON CONFLICT (id) DO NOTHING`
)

// queueReservations adds the statements that reserve. Their results land in the
// writes.
func (s *Store) queueReservations(batch *pgx.Batch, writes []*write, sent dispatch) {
	var rules []Rule
	var ruleTimes []time.Time
	for _, w := range writes {
		for _, l := range w.reserve.Leases {
			for _, rule := range l.Rules {
				rules, ruleTimes = append(rules, rule), append(ruleTimes, w.reserve.Now)
			}
		}
	}
	count := s.counting(writes)
	if len(count.grants) > 0 {
		batch.Queue(lockGrants, count.grants, sent.number)
	}
	slices.Sort(count.locks)
	batch.Queue(lockNumbers, append([]int64{sent.number}, slices.Compact(count.locks)...))
	queueSessions(batch, s.config.Tenant, writes, sent.at)
	s.queueLeases(batch, writes, count, sent.at)
	if len(rules) > 0 {
		batch.Queue(saveRules, s.config.Tenant, column(rules, func(r Rule) string { return r.ID }), column(rules, func(r Rule) string { return r.Policy }),
			column(rules, func(r Rule) string { return r.Grant }), column(rules, func(r Rule) string { return r.Pattern }), ruleTimes)
	}
}

func queueSessions(batch *pgx.Batch, tenant string, writes []*write, sent time.Time) {
	var opened []*Session
	var jobKeys [][]byte
	var nows []time.Time
	for _, w := range writes {
		if !w.reserve.Joined {
			opened, jobKeys, nows = append(opened, &w.reserve.Session), append(jobKeys, w.reserve.JobKey), append(nows, w.reserve.Now)
		}
	}
	if len(opened) == 0 {
		return
	}
	batch.Queue(openSessions, tenant,
		column(opened, func(s *Session) string { return s.ID }),
		column(opened, func(s *Session) string { return s.Provider }),
		column(opened, func(s *Session) string { return s.Issuer }),
		column(opened, func(s *Session) []byte { return s.TokenDigest[:] }),
		column(opened, func(s *Session) string { return s.Subject }),
		column(opened, func(s *Session) string { return string(s.Claims) }),
		column(opened, func(s *Session) []byte { return s.claimsMAC[:] }),
		column(opened, func(s *Session) time.Time { return s.OpenedAt }),
		column(opened, func(s *Session) time.Time { return s.ExpiresAt }),
		column(opened, func(s *Session) time.Time { return s.TokenExpiresAt }),
		column(opened, func(s *Session) []byte { return s.JTI }),
		jobKeys,
		nows,
		sent, MaxSkew.Seconds(), maxWait)
}

// maxAsked bounds what is remembered of a job's wish.
const maxAsked = 366 * 24 * time.Hour

// leaseRow is one lease with the exchange that it belongs to, and its place among
// the leases of the batch that one limit counts together.
type leaseRow struct {
	exchange int
	place    int // among the batch's leases
	first    bool
	of       *Reservation
	*NewLease

	event  *audit.Event
	opened *audit.Event // of the session, with the first lease of an exchange that may open it

	ofGrant, ofGrantAndJob, ofJob, ofTenant int
}

func leaseRows(writes []*write) []leaseRow {
	var rows []leaseRow
	places := map[string]int{}
	place := func(limit string, of ...string) int {
		key := limit + "\x00" + strings.Join(of, "\x00")
		places[key]++
		return places[key]
	}
	for i, w := range writes {
		r := w.reserve
		job, whose := string(r.JobKey), string(r.Whose)
		for j := range r.Leases {
			row := leaseRow{exchange: i, place: len(rows), first: j == 0, of: r, NewLease: &r.Leases[j], event: &r.events[len(r.events)-len(r.Leases)+j]}
			if j == 0 && !r.Joined {
				row.opened = &r.events[0]
			}
			if row.MaxActive > 0 {
				row.ofGrant = place(LimitGrant, row.Policy, row.Grant)
			}
			if row.MaxActivePerJob > 0 {
				row.ofGrantAndJob = place(LimitGrantPerJob, row.Policy, row.Grant, whose, job)
			}
			if r.MaxPerJob > 0 {
				row.ofJob = place(LimitJob, whose, job)
			}
			if r.MaxPerTenant > 0 {
				row.ofTenant = place(LimitTenant, whose)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func refusal(verdict, grant string, sessionEnds time.Time) error {
	switch verdict {
	case "":
		return nil
	case "clock":
		return &ClockError{Detail: fmt.Sprintf("the broker's idea of the time and the database's clock were more than %s apart; the clock is looked at anew", MaxSkew)}
	case "late":
		return fmt.Errorf("%w: it waited longer than %s for a place in a transaction", ErrUnavailable, maxWait)
	case "under way":
		return fmt.Errorf("%w: another exchange of this job token is under way, or is being undone", ErrUnavailable)
	case "reused jti":
		return ErrReusedJTI
	case "replayed":
		return ErrReplayed
	case "other request":
		return ErrOtherRequest
	case "overtaken":
		return ErrOvertaken
	case "retry":
		return ErrRetry
	case "session ends":
		return &SessionEndsError{At: sessionEnds}
	}
	return &TooManyError{Grant: grant, Limit: verdict}
}
