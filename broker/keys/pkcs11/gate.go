package pkcs11

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// drainWait is how long the gate keeps new calls out while it waits for those
// inside: one that hangs must not stop the others for longer.
const drainWait = time.Second

// gate counts the operations that are inside a module. C_Finalize under a call
// that is at work crashes the process, so it happens while nobody is inside.
type gate struct {
	sync.Mutex
	inside int
	shut   chan struct{} // nil: open; closed when it opens again
	empty  chan struct{} // closed by who leaves last while it is shut
}

// enter waits while the gate is shut.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
			g.Unlock()
			return nil
		}
		g.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the PKCS#11 module to start anew: %w", context.Cause(ctx))
		}
	}
}

func (g *gate) leave() {
	g.Lock()
	defer g.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// alone runs do while nobody is inside. It says false, and doesn't run it, when
// somebody else is about to do the same, or those inside don't leave in time.
func (g *gate) alone(do func()) bool {
	g.Lock()
	if g.shut != nil {
		shut := g.shut
		g.Unlock()
		<-shut
		return false
	}
	g.shut = make(chan struct{})
	empty := make(chan struct{})
	if g.inside == 0 {
		close(empty)
	} else {
		g.empty = empty
	}
	g.Unlock()
	timer := time.NewTimer(drainWait)
	defer timer.Stop()
	left := true
	select {
	case <-empty:
	case <-timer.C:
		left = false
	}
	if left {
		do()
	}
	g.Lock()
	defer g.Unlock()
	close(g.shut)
	g.shut, g.empty = nil, nil
	return left
}
