package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Member is one broker.
type Member struct {
	ID      string // brk_…, of this run of the program
	Host    string // name of the machine, as it calls itself
	Version string // of the program

	// What Members knows besides, by the database's clock.
	StartedAt, SeenAt time.Time
	Tasks             []string // what it does once for the fleet
}

// memberKept is how long a broker that wasn't seen any more stays in the table.
const memberKept = 24 * time.Hour

// enter writes down that this broker is there, and forgets those that haven't
// been for long.
func (s *session) enter(ctx context.Context) error {
	const enter = `
INSERT INTO brokers AS b (id, host, version, tasks, started_at, seen_at) VALUES ($1, $2, $3, $4, now(), now())
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, tasks = excluded.tasks`
	m, tasks := s.fleet.config.Member, s.fleet.leading(s)
	slices.Sort(tasks)
	batch := &pgx.Batch{}
	batch.Queue(enter, m.ID, clip(m.Host), clip(m.Version), tasks)
	batch.Queue(`DELETE FROM brokers WHERE seen_at < now() - $1::interval`, memberKept)
	if err := s.conn.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("writing down that this broker is there: %w", err)
	}
	return nil
}

// clip keeps a name of the system's within what the table takes.
func clip(name string) string { return name[:min(len(name), 200)] }

// Members lists the brokers that were there within the last day, the last seen
// first; a thousand at the most.
func Members(ctx context.Context, conn interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
},
) ([]Member, error) {
	const list = `SELECT id, host, version, started_at, seen_at, tasks FROM brokers ORDER BY seen_at DESC, id LIMIT 1000`
	rows, err := conn.Query(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("listing brokers: %w", err)
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Member])
	if err != nil {
		return nil, fmt.Errorf("listing brokers: %w", err)
	}
	return members, nil
}
