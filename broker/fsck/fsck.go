// Package fsck looks whether what must always hold does hold: between the rows
// of the broker's database, its audit log, and the credentials on the targets.
//
// It only reads, on a live system. Each table is walked by its key in batches,
// each batch a statement of its own: a snapshot that stayed open for the whole
// walk would keep dead rows from being cleared away, and slow every revocation
// down. Brokers go on working meanwhile, so whatever looks wrong is a suspect
// first. It is looked at once more, by a fresh read after a pause, and reported
// if it is still wrong in the same way.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// Config of a look. Pool, Tenant and Verify are required.
type Config struct {
	Pool   Pool
	Tenant string
	// Verify checks an event's hash and MAC; see [audit.Recorder.Verify].
	Verify func(audit.Event) error
	// Chain checks the log that the events stand in. Nil: it is not looked at, and
	// that is said.
	Chain func(ctx context.Context) error
	// Targets are asked what stands on them, by the names of their issuers.
	Targets map[string]Lister
	// Unlisted are issuers whose targets can't be asked, by why: that is said too.
	Unlisted map[string]string

	// Grace is how long after its time a lease may wait for the revoker; zero: 1 minute.
	Grace time.Duration
	// KeptRows is for how long leases, sessions and what belongs to them are on record
	// at least, and KeptEvents audit events: what is older may have been dropped, and
	// is not missed. Zero: for ever.
	KeptRows, KeptEvents time.Duration
	// Pause is how long a suspect is left alone before it is looked at again; zero: 2 s.
	Pause time.Duration
	// Batch is how many rows one statement reads; zero: 500.
	Batch int
	// Most is how many findings one walk reports before it stops; zero: 1,000.
	Most int
}

// Pool is what is read from. Give its connections a statement timeout, and
// default_transaction_read_only.
type Pool interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Finding is something that must not be.
type Finding struct {
	Check string `json:"check"` // which rule it breaks: one of the Check constants
	Where string `json:"where"` // kind and id of the row, or of the credential
	What  string `json:"what"`
	Hint  string `json:"hint"`

	key string // by which its row is found again
}

// Walk is one table, log or target, and how much of it was looked at.
type Walk struct {
	Name    string `json:"name"`
	Rows    int    `json:"rows"`
	Skipped string `json:"skipped,omitempty"` // why it was not looked at
	Cut     bool   `json:"cut,omitempty"`     // it has more findings than are listed
}

// Report is what a look found.
type Report struct {
	Walks    []Walk    `json:"walks"`
	Findings []Finding `json:"findings"`
}

// Clean says that nothing was found.
func (r *Report) Clean() bool { return len(r.Findings) == 0 }

// The rules.
const (
	CheckOverdue   = "lease-overdue"     // alive past its end, or never finished, and nobody is at it
	CheckStuck     = "lease-stuck"       // its revocation keeps failing
	CheckState     = "lease-state"       // its state, its times and what is due don't fit
	CheckSession   = "lease-session"     // it stands in no session
	CheckEvents    = "events-missing"    // a subject doesn't have the events that it counts
	CheckEnd       = "event-of-end"      // not exactly one event says how it ended
	CheckEvent     = "event-forged"      // hash, MAC, columns and body don't belong together
	CheckSubject   = "event-of-nothing"  // of a lease or session that is not there
	CheckReference = "row-of-nothing"    // a fingerprint without a lease, a token without a session
	CheckOrphan    = "credential-orphan" // on the target, and no lease is alive for it
	CheckGone      = "credential-gone"   // the lease is active, and the target doesn't know it
	CheckChain     = "audit-chain"
)

// walk is how one place is looked at: page by page, and suspects again by their keys.
type walk struct {
	name string
	page func(ctx context.Context, after string) (*look, error)
	some func(ctx context.Context, keys []string) (*look, error)
}

// look is what a statement showed.
type look struct {
	rows     int
	last     string // key of the last row; "" when there was none
	suspects []Finding
}

func (l *look) suspect(key string, f Finding) {
	f.key = key
	l.suspects = append(l.suspects, f)
}

// Run looks at everything once. The error says that it couldn't; the report holds
// what was seen until then.
func Run(ctx context.Context, config Config) (*Report, error) {
	if config.Pool == nil || config.Tenant == "" || config.Verify == nil {
		return nil, errors.New("looking for what is wrong: pool, tenant and what verifies events are all required")
	}
	orDefault(&config.Grace, time.Minute)
	orDefault(&config.Pause, 2*time.Second)
	orDefault(&config.Batch, 500)
	orDefault(&config.Most, 1000)
	r := &run{config: config, report: Report{Findings: []Finding{}}}
	if err := r.since(ctx); err != nil {
		return &r.report, fmt.Errorf("reading the database's clock: %w", err)
	}
	for _, w := range []walk{
		{"leases", r.leasePage, r.leasesByID},
		{"sessions", r.countedPage(sessionRows), r.countedByID(sessionRows)},
		{"admin tokens", r.countedPage(adminTokenRows), r.countedByID(adminTokenRows)},
		{"static secrets", r.countedPage(secretRows), r.countedByID(secretRows)},
		{"leaks", r.countedPage(leakRows), r.countedByID(leakRows)},
		{"session tokens", r.referencePage(tokenReferences), r.referencesByKey(tokenReferences)},
		{"fingerprints", r.referencePage(printReferences), r.referencesByKey(printReferences)},
		{"audit events", r.eventPage, r.eventsByID},
	} {
		if err := r.walk(ctx, w); err != nil {
			return &r.report, fmt.Errorf("looking at %s: %w", w.name, err)
		}
	}
	if err := r.chain(ctx); err != nil {
		return &r.report, err
	}
	return &r.report, r.targets(ctx)
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

type run struct {
	config Config
	report Report
	// What is older than these may be gone.
	rows, events time.Time
}

// since sets from when on everything has to be there.
func (r *run) since(ctx context.Context) error {
	rows, err := r.config.Pool.Query(ctx, `SELECT clock_timestamp()`)
	if err != nil {
		return err
	}
	now, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[time.Time])
	if err != nil {
		return err
	}
	for kept, since := range map[*time.Duration]*time.Time{&r.config.KeptRows: &r.rows, &r.config.KeptEvents: &r.events} {
		if *kept > 0 {
			*since = now.Add(slack - *kept)
		}
	}
	return nil
}

// older says whether what an id names began before a time. What has no id of ours
// did not.
func older(id string, since time.Time) bool {
	at := ids.Time(id[:min(len(id), len(ids.Lease))], id)
	return !at.IsZero() && at.Before(since)
}

func (r *run) walk(ctx context.Context, w walk) error {
	done := Walk{Name: w.name}
	defer func() { r.report.Walks = append(r.report.Walks, done) }()
	var suspects []Finding
	found := 0
	for after := ""; ; {
		seen, err := w.page(ctx, after)
		if err != nil {
			return err
		}
		done.Rows += seen.rows
		suspects = append(suspects, seen.suspects...)
		if after = ""; seen.rows == r.config.Batch {
			if after = seen.last; len(suspects) < r.config.Batch {
				continue // one pause for many
			}
		}
		still, err := r.again(ctx, w, suspects)
		if err != nil {
			return err
		}
		suspects = nil
		if done.Cut = r.add(&found, still); done.Cut || after == "" {
			return nil
		}
	}
}

// again looks at suspects once more, and returns those that still are.
func (r *run) again(ctx context.Context, w walk, suspects []Finding) (still []Finding, err error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	if err := pause(ctx, r.config.Pause); err != nil {
		return nil, err
	}
	type rule struct{ key, check string }
	before := map[rule]bool{}
	var keys []string
	for _, s := range suspects {
		before[rule{s.key, s.Check}] = true
		if len(keys) == 0 || keys[len(keys)-1] != s.key {
			keys = append(keys, s.key)
		}
	}
	for len(keys) > 0 {
		n := min(len(keys), r.config.Batch)
		seen, err := w.some(ctx, keys[:n])
		if err != nil {
			return nil, err
		}
		for _, s := range seen.suspects {
			if before[rule{s.key, s.Check}] {
				still = append(still, s)
			}
		}
		keys = keys[n:]
	}
	return still, nil
}

// add puts findings on the report, and says whether there were more than it takes
// from one walk.
func (r *run) add(found *int, findings []Finding) (cut bool) {
	if most := r.config.Most - *found; len(findings) > most {
		findings, cut = findings[:most], true
	}
	*found += len(findings)
	r.report.Findings = append(r.report.Findings, findings...)
	return cut
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (r *run) chain(ctx context.Context) error {
	done := Walk{Name: "audit log"}
	defer func() { r.report.Walks = append(r.report.Walks, done) }()
	if r.config.Chain == nil {
		done.Skipped = "there is none to look at"
		return nil
	}
	err := r.config.Chain(ctx)
	if err != nil && ctx.Err() == nil {
		r.report.Findings = append(r.report.Findings, Finding{
			Check: CheckChain, Where: "audit log", What: err.Error(),
			Hint: "keep the database as it is, export the log, and compare it with a checkpoint that was kept elsewhere",
		})
		return nil
	}
	return ctx.Err()
}
