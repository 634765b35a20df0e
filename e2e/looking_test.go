package e2e

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// looking keeps the connections over which a test looks into databases, by URL.
// Tests wait for what they find there: a connection for each look cost the server
// more than all that it did for the brokers.
type looking struct {
	mu    sync.Mutex
	conns map[string]*pgx.Conn
}

func look(t *testing.T) *looking {
	t.Helper()
	l := &looking{conns: map[string]*pgx.Conn{}}
	t.Cleanup(l.close)
	return l
}

// at looks. Where a connection was cut, as an outage does it, it looks again over
// another one.
func (l *looking) at(ctx context.Context, url string, see func(*pgx.Conn) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if conn := l.conns[url]; conn != nil {
		err := see(conn)
		if !conn.IsClosed() {
			return err
		}
	}
	delete(l.conns, url)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	l.conns[url] = conn
	return see(conn)
}

func (l *looking) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		_ = conn.Close(context.Background()) // it only looked
	}
	clear(l.conns)
}
