package leases_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/leases"
)

// TestFewHandshakes: however many need a connection, a server that is slow to open
// one is asked for few at a time; and where it opens them, all get one.
func TestFewHandshakes(t *testing.T) {
	t.Parallel()
	const clients, most = 20, 4
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	came := make(chan net.Conn, clients)
	go func() {
		for {
			conn, err := mute.Accept()
			if err != nil {
				return
			}
			came <- conn
		}
	}()
	pool := prepared(t, "postgres://somebody:secret@"+mute.Addr().String()+"/d?sslmode=disable", clients)
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			if conn, err := pool.Acquire(t.Context()); err == nil {
				conn.Release()
				t.Error("a server that says nothing let somebody in")
			}
		})
	}
	var open []net.Conn
	for range most {
		select {
		case conn := <-came:
			open = append(open, conn)
		case <-time.After(time.Minute):
			t.Fatal("nobody came")
		}
	}
	select {
	case <-came:
		t.Errorf("more than %d came at once", most)
	case <-time.After(100 * time.Millisecond): // time enough to come, for those who don't wait
	}
	_ = mute.Close()
	for _, conn := range open {
		_ = conn.Close()
	}
	asking.Wait()

	pool = prepared(t, devtest.Database(t), clients)
	var all sync.WaitGroup
	held := make(chan *pgxpool.Conn, clients)
	for range clients {
		all.Go(func() {
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			held <- conn
		})
	}
	all.Wait()
	close(held)
	for conn := range held {
		conn.Release()
	}
}

func prepared(t *testing.T, url string, most int32) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	leases.Prepare(config)
	config.MaxConns = most
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
