package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// task is what runs once in the fleet, as this broker sees it. Fleet.mu guards it.
type task struct {
	name    string
	wanted  bool                 // asks for its lock
	holding context.Context      //nolint:containedctx // of the session that holds its lock; nil while none does, or it is to be let go
	granted chan context.Context // the same, for who waits
}

// Key is the advisory lock of a task.
func Key(task string) int64 {
	sum := sha256.Sum256([]byte("daypass fleet " + task))
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // any 64 bits will do
}

// Once runs what must run once in the fleet, each time that this broker is the
// one to do it, until ctx ends. The context of run ends as soon as another may
// take over, and run returns then. One that returns before is run again, here or
// elsewhere, a heartbeat later.
//
// Two may run for a moment: see the package. The error says that this broker has
// a task of that name already.
func (f *Fleet) Once(ctx context.Context, name string, run func(ctx context.Context)) error {
	t := &task{name: name, granted: make(chan context.Context, 1)}
	f.mu.Lock()
	if f.tasks[name] != nil {
		f.mu.Unlock()
		return fmt.Errorf("this broker runs %s already", name)
	}
	f.tasks[name] = t
	f.mu.Unlock()
	defer f.change(func() { delete(f.tasks, name); t.holding = nil })
	for {
		f.change(func() { t.wanted = true })
		select {
		case <-ctx.Done():
			return nil
		case session := <-t.granted:
			f.lead(ctx, session, t, run)
			f.change(func() { t.holding = nil })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(f.config.Heartbeat): // others may have it meanwhile
		}
	}
}

// lead runs the task while the session lasts.
func (f *Fleet) lead(ctx, session context.Context, t *task, run func(ctx context.Context)) {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(session, func() { cancel(context.Cause(session)) })()
	if running.Err() != nil || session.Err() != nil {
		return
	}
	f.config.Observe.Leads(t.name, true)
	f.config.Logger.InfoContext(ctx, "this broker does from now on what is done once in the fleet", "task", t.name)
	run(running)
	f.config.Observe.Leads(t.name, false)
	f.config.Logger.InfoContext(ctx, "this broker has stopped doing what is done once in the fleet", "task", t.name, "lost", session.Err() != nil)
}

// change changes what is asked for, and has the session look at it at once.
func (f *Fleet) change(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
	f.changed = true
	f.interrupt()
}

// claims are the tasks that ask for their locks, by these, and the locks of a
// session that nobody needs any more.
func (f *Fleet) claims(s *session) (wanted map[int64]*task, unneeded []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = false
	wanted = map[int64]*task{}
	for name, t := range f.tasks {
		if t.wanted {
			wanted[Key(name)] = t
		}
	}
	for key, t := range s.locks {
		if t.holding != s.alive {
			unneeded = append(unneeded, key)
		}
	}
	return wanted, unneeded
}

// grant tells a task that a session holds its lock. One that has left meanwhile
// doesn't hold it, and the next beat lets it go.
func (f *Fleet) grant(t *task, s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tasks[t.name] != t {
		return
	}
	t.wanted, t.holding = false, s.alive
	t.granted <- s.alive // it has room: a task that wants its lock has taken the last one
}

// leading are the tasks that run, or are about to, under the locks of a session.
func (f *Fleet) leading(s *session) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := []string{}
	for name, t := range f.tasks {
		if t.holding == s.alive {
			names = append(names, name)
		}
	}
	return names
}
