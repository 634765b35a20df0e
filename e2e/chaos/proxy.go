// Package chaos makes things go wrong in a way that can be repeated: a schedule
// of faults that derives from a seed, and a TCP proxy that loses, delays and cuts
// what passes through it. The tests of e2e do with them what they say.
package chaos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Mode is what a Proxy does to connections, those that are open and new ones.
type Mode int

// The modes.
const (
	Pass Mode = iota
	// Slow holds every piece up for a while.
	Slow
	// Silent lets nothing through, and closes nothing: a peer that fell off the net.
	Silent
	// Refuse closes new connections at once; open ones go on.
	Refuse
	// LoseAnswers closes a connection in the moment in which a Postgres server has
	// done what it was asked and says so: the work is done, and nobody hears of it.
	// Of three answers it loses one, or nobody would get as far as to ask.
	LoseAnswers
)

// Proxy stands between a client and one server on loopback.
type Proxy struct {
	listener net.Listener
	target   func() string
	done     sync.WaitGroup

	mu      sync.Mutex
	mode    Mode
	delay   time.Duration
	changed chan struct{} // closed when mode changes
	open    map[*pair]bool
	closed  bool
	answers int // that LoseAnswers has seen
}

// pair is one connection through the proxy.
type pair struct{ client, server net.Conn }

func (p *pair) close() {
	_ = p.client.Close() // closing twice is no matter
	_ = p.server.Close()
}

// NewProxy listens on loopback until Close. target is asked for each connection:
// a server that is started again may have another port.
func NewProxy(ctx context.Context, target func() string) (*Proxy, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, target: target, changed: make(chan struct{}), open: map[*pair]bool{}}
	p.done.Go(p.accept)
	return p, nil
}

// Port is where it listens, on 127.0.0.1.
func (p *Proxy) Port() int {
	address, _ := p.listener.Addr().(*net.TCPAddr) // of a TCP listener
	return address.Port
}

// Set changes what it does; delay is for Slow.
func (p *Proxy) Set(mode Mode, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode, p.delay = mode, delay
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut closes all connections that are open now.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.close()
	}
}

// Close ends it, with all connections.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.listener.Close()
	p.Set(Pass, 0)
	p.Cut()
	p.done.Wait()
	return err
}

func (p *Proxy) now() (Mode, time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.delay, p.changed
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.done.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	if mode, _, _ := p.now(); mode == Refuse {
		_ = client.Close() // that is the answer
		return
	}
	server, err := net.DialTimeout("tcp", p.target(), 5*time.Second) //nolint:noctx // ends by its own timeout
	if err != nil {
		_ = client.Close() // as the server's own address would
		return
	}
	c := &pair{client, server}
	p.mu.Lock()
	p.open[c] = true
	late := p.closed
	p.mu.Unlock()
	if late {
		c.close()
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(c, server, client, false) })
	both.Go(func() { p.copy(c, client, server, true) })
	both.Wait()
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

// ready is how a Postgres server ends an answer outside of a transaction:
// ReadyForQuery, idle. What it was asked is committed, or refused.
var ready = []byte{'Z', 0, 0, 0, 5, 'I'} //nolint:gochecknoglobals // a constant

// copy passes on what comes from one side, until either side closes.
func (p *Proxy) copy(c *pair, to io.Writer, from io.Reader, answers bool) {
	defer c.close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			mode, delay, changed := p.now()
			for mode == Silent {
				<-changed
				mode, delay, changed = p.now()
			}
			if mode == LoseAnswers && answers && bytes.HasSuffix(buffer[:n], ready) && p.lose() {
				return
			}
			if mode == Slow {
				wait(delay, changed)
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// lose says whether the next answer is to be lost.
func (p *Proxy) lose() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
	return p.answers%3 == 0
}

func wait(d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	}
}
