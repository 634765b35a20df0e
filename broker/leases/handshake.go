package leases

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// handshakes is how many connections to one server a broker opens at once. One
	// that has just been started, or promoted, is asked by all brokers for all that
	// they lost: where each comes at once, none is done within its deadline, and all
	// come again. A few at a time are soon enough for all.
	handshakes = 4
	// mostServers bounds what is remembered, where a name leads to ever new addresses.
	mostServers = 64
)

// gate lets few connections to a server be opened at a time. Each server has its
// own: one that says nothing holds up nobody who asks another.
type gate struct {
	mu      sync.Mutex
	servers map[string]chan struct{}
}

func (g *gate) slots(address string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	slots := g.servers[address]
	if slots == nil {
		if g.servers == nil || len(g.servers) >= mostServers {
			g.servers = map[string]chan struct{}{}
		}
		slots = make(chan struct{}, handshakes)
		g.servers[address] = slots
	}
	return slots
}

// guard has the connections of a configuration opened through the gate.
func (g *gate) guard(c *pgconn.Config) {
	dial, before := c.DialFunc, c.AfterConnect
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		slots := g.slots(address)
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting until others are connected: %w", ctx.Err())
		}
		conn, err := dial(ctx, network, address)
		if err != nil {
			<-slots
			return nil, err
		}
		return &opening{Conn: conn, slots: slots}, nil
	}
	c.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		opened(conn.Conn())
		if before == nil {
			return nil
		}
		return before(ctx, conn)
	}
}

// opening is a connection that has a place until it is open, or closed.
type opening struct {
	net.Conn

	slots chan struct{}
	once  sync.Once
}

func (o *opening) opened() { o.once.Do(func() { <-o.slots }) }

// Close implements net.Conn.
func (o *opening) Close() error {
	o.opened()
	return o.Conn.Close()
}

// opened gives the place of a connection back, which may be within one of TLS.
func opened(conn net.Conn) {
	for {
		switch c := conn.(type) {
		case *opening:
			c.opened()
			return
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return
		}
	}
}
