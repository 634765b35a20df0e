package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/e2e/bench/rows"
)

// level is a broker whose database remembers so many live leases.
type level struct {
	live     int
	database string
	config   string
	log      string
	broker   *child
	figures  map[string][]float64 // one for each round
}

// The figures of a level, in the order in which they are told.
const (
	figureStart  = "start to ready"
	figureMemory = "memory"
	figureP50    = "exchange p50 1 client"
	figureRate   = "exchange 8 clients"
	figureSweep  = "sweep of 5120 due"
)

func scaleFigures() [][2]string {
	return [][2]string{{figureStart, "ms"}, {figureMemory, "MiB"}, {figureP50, "ms"}, {figureRate, "1/s"}, {figureSweep, "ms"}}
}

// scale measures what grows with the number of live leases: nothing should. Each
// level has a database and a broker of its own, and all of them are measured in
// every round, turn by turn; the first is what the others are held against.
func (s *stage) scale(ctx context.Context, levels []int, each time.Duration, out io.Writer) ([]rows.Row, error) {
	list := make([]*level, len(levels))
	for i, live := range levels {
		var err error
		if list[i], err = s.openLevel(ctx, live); err != nil {
			return nil, fmt.Errorf("filling a database with %d leases: %w", live, err)
		}
	}
	for round := range rounds {
		turns := slices.Clone(list)
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, l := range turns {
			if err := s.measureLevel(ctx, l, each/rounds); err != nil {
				return nil, fmt.Errorf("with %d leases: %w", l.live, err)
			}
		}
	}
	var told []rows.Row
	for _, f := range scaleFigures() {
		for _, l := range list {
			row := rows.Row{Name: l.name(f[0]), Unit: f[1], Baseline: list[0].name(f[0]), Value: middle(l.figures[f[0]])}
			row.Ratio = row.Value / middle(list[0].figures[f[0]])
			told = append(told, row)
			if _, err := fmt.Fprintf(out, "%-44s %10.2f %-4s %6.2f × %s\n", row.Name, row.Value, row.Unit, row.Ratio, row.Baseline); err != nil {
				return nil, err
			}
		}
	}
	return told, nil
}

func (l *level) name(figure string) string { return fmt.Sprintf("%s, %d live leases", figure, l.live) }

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (s *stage) openLevel(ctx context.Context, live int) (*level, error) {
	name := fmt.Sprintf("live_%d", live)
	l := &level{live: live, database: name, config: name + ".yaml", log: name + ".log", figures: map[string][]float64{}}
	if err := s.postgres.CreateDatabase(ctx, name); err != nil {
		return nil, err
	}
	if err := s.prepareDatabase(ctx, name, l.config); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, s.postgres.DSN(name))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was written is committed
	if err := fillLeases(ctx, conn, live); err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `CHECKPOINT`)
	return l, err
}

const (
	fillBatch = 50_000
	// fillSpread is over how much time the leases were made; fillLife is when the
	// first of them ends, long after the run.
	fillSpread = 20 * time.Hour
	fillLife   = 3 * time.Hour
)

// fillLeases writes live leases of self-contained credentials, one in ten with a
// session and a session token of its own, as exchanges of the last hours would
// have left them. Ids are ordered by time, as all are.
func fillLeases(ctx context.Context, conn *pgx.Conn, live int) error {
	const sessions = `
INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, jti, job_key, events)
SELECT $1 || lpad(i::text, 16, '0'), 'main', 'github', 'https://issuer.example', sha256(('d' || i)::bytea), 'repo:octo/app:ref:refs/heads/main',
    json_build_object('sub', 'repo:octo/app:ref:refs/heads/main', 'filler', repeat('x', 900)), sha256('mac'), $2, $3, $2::timestamptz + interval '5 minutes',
    sha256(('j' || i)::bytea), substr(sha256(('k' || i)::bytea), 1, 16), 1
FROM generate_series($4::bigint, $5, 10) AS i`
	//nolint:gosec // hashes of no token
	const tokens = `
INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at)
SELECT sha256(('t' || i)::bytea), 'k', $1 || lpad(i::text, 16, '0'), '{bench/jwt}', $2 FROM generate_series($3::bigint, $4, 10) AS i`
	const leases = `
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation,
    provider, subject, state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, whose, job_key, events, signing_key)
SELECT $1 || lpad(i::text, 16, '0'), 'main', $2 || lpad((i - i % 10)::text, 16, '0'), sha256(('t' || (i - i % 10))::bytea), 'bench', 'jwt', 'main', 'd', 'tokens', '', 'jwt', '', 'expiry',
    'github', 'repo:octo/app:ref:refs/heads/main', 'active', $3, $4, $4, 900, false, $3::timestamptz + interval '10 seconds', $3::timestamptz + interval '15 seconds', $4, '{}',
    substr(sha256(('w' || i % 5000)::bytea), 1, 16), substr(sha256(('k' || (i - i % 10))::bytea), 1, 16), 1, 'former'
FROM generate_series($5::bigint, $6) AS i`
	const prefix = 14 // of an id: its kind and its time
	began := time.Now()
	for first := 0; first < live; first += fillBatch {
		last := min(first+fillBatch, live) - 1
		at := began.Add(-time.Duration(float64(fillSpread) * (1 - float64(first)/float64(live))))
		lease, session := ids.From(ids.Lease, at)[:prefix], ids.From(ids.Session, at)[:prefix]
		ends := began.Add(fillLife).Add(time.Duration(first) * time.Millisecond)
		batch := &pgx.Batch{}
		batch.Queue(sessions, session, at, ends, first, last)
		batch.Queue(tokens, session, at, first, last)
		batch.Queue(leases, lease, session, at, ends, first, last)
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, `VACUUM (ANALYZE) leases, sessions, session_tokens`)
	return err
}

// measureLevel starts the level's broker anew, and ends it.
func (s *stage) measureLevel(ctx context.Context, l *level, each time.Duration) (err error) {
	began := time.Now()
	if l.broker, err = startChild(ctx, s.path(l.log), s.path("daypassd"), "serve", "--config", s.path(l.config)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.broker.stop(), os.Remove(s.path(l.log))) }()
	if err := awaitReady(ctx, l.broker.address); err != nil {
		return err
	}
	l.tell(figureStart, milliseconds(time.Since(began)))
	for _, clients := range []int{1, 8} {
		side := side{name: l.database, connect: s.http(l.broker.address, "/v1/exchange", `{"grants":["bench/jwt"]}`)}
		p := pair{ours: side, limit: side, clients: clients, tokens: s.tokens}
		need, err := p.warm(ctx, min(each, warmUp), each)
		if err != nil {
			return err
		}
		if err := s.tokens.sign(need); err != nil {
			return err
		}
		var taken []sample
		if err := side.sample(ctx, p, each, &taken); err != nil {
			return err
		}
		if clients == 1 {
			l.tell(figureP50, taken[0].p50)
		} else {
			l.tell(figureRate, taken[0].rate)
		}
	}
	memory, err := residentMemory(l.broker.pid())
	if err != nil {
		return err
	}
	l.tell(figureMemory, memory)
	took, err := s.sweep(ctx, l)
	l.tell(figureSweep, milliseconds(took))
	return err
}

func (l *level) tell(figure string, value float64) {
	l.figures[figure] = append(l.figures[figure], value)
}

const (
	sweepLeases = 5120
	sweepAhead  = 3 * time.Second // due then, so that the revoker knows before
	sweepTime   = time.Minute
)

// sweep lets leases fall due in one moment, and says how long after it the last
// of them had ended.
func (s *stage) sweep(ctx context.Context, l *level) (time.Duration, error) {
	conn, err := pgx.Connect(ctx, s.postgres.DSN(l.database))
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was written is committed
	due := time.Now().Add(sweepAhead).UTC().Truncate(time.Microsecond)
	policy := "sweep" + strconv.FormatInt(due.UnixMicro(), 36)
	const fill = `
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation,
    provider, subject, state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, whose, job_key, events)
SELECT $1 || lpad(i::text, 16, '0'), 'main', 'ses_', sha256('t'), $2, 'jwt', 'main', 'd', 'tokens', '', 'jwt', '', 'expiry',
    'github', 'sweep', 'active', $3::timestamptz - interval '1 minute', $3, $3, 60, false, $3, $3, $3, '{}', substr(sha256('w'), 1, 16), substr(sha256('k'), 1, 16), 1
FROM generate_series(1, $4) AS i`
	if _, err := conn.Exec(ctx, fill, ids.New(ids.Lease, due.Add(-sweepAhead))[:14], policy, due, sweepLeases); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sweepTime, fmt.Errorf("leases that fell due had not ended after %s", sweepTime))
	defer cancel()
	for {
		var left int
		var last *time.Time
		const look = `SELECT count(*) FILTER (WHERE ended_at IS NULL), max(ended_at) FROM leases WHERE policy = $1 AND id >= $2`
		if err := conn.QueryRow(ctx, look, policy, ids.From(ids.Lease, due.Add(-2*sweepAhead))).Scan(&left, &last); err != nil {
			return 0, errors.Join(err, context.Cause(ctx))
		}
		if left == 0 {
			return last.Sub(due), nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// awaitReady asks until the broker says that it is ready.
func awaitReady(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("the broker was not ready after %s", startTime))
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := (&http.Client{}).Do(request)
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if err := response.Body.Close(); err != nil {
			return err
		}
		if response.StatusCode == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// residentMemory is what a process holds that no file holds for it, in MiB.
func residentMemory(pid int) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			return math.Round(float64(kib)/102.4) / 10, err
		}
	}
	return 0, errors.New("/proc/PID/status has no RssAnon")
}
