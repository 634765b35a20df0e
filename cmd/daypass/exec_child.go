package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/daypass/daypass/broker/redact"
)

// drainTimeout bounds waiting for output after the command ended: whatever it
// left running in the background may hold its output open for ever.
const drainTimeout = 3 * time.Second

// company is what a command has beside it while it runs.
type company struct {
	masker  *redact.Masker
	t       *console // nil: it gets pipes
	signals <-chan os.Signal
	watch   func(ctx context.Context, r *running) // until ctx ends, with the command
}

// running is a command that runs.
type running struct {
	p     *program
	child *exec.Cmd
	pumps []*pump
	t     *console
	ended chan struct{}

	stopping    atomic.Bool
	interrupted atomic.Bool // somebody wants it to end for good
}

// runChild runs the command to its end, and returns its exit code as an error, and
// whether it was asked from outside to end.
func (p *program) runChild(ctx context.Context, child *exec.Cmd, with company) (interrupted bool, err error) {
	r := &running{p: p, child: child, t: with.t, ended: make(chan struct{})}
	if r.pumps, err = p.outputs(child, with.masker, r.t); err != nil {
		return false, err
	}
	err = child.Start()
	for _, u := range r.pumps {
		u.begin()
	}
	if err == nil {
		r.accompany(context.WithoutCancel(ctx), with)
	}
	problems := drained(r.pumps)
	if r.t != nil {
		r.t.end() // before anything is said in it
	}
	for _, problem := range problems {
		p.say("warning: passing on output: %v", problem)
	}
	if err != nil {
		return false, startError(err)
	}
	interrupted = r.interrupted.Load()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return interrupted, &exit{code: exitSignal + int(status.Signal())}
	}
	if code := child.ProcessState.ExitCode(); code != 0 {
		return interrupted, &exit{code: code}
	}
	return interrupted, nil
}

// accompany does what is to be done beside the command, until that has ended.
func (r *running) accompany(ctx context.Context, with company) {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	if r.t != nil {
		r.t.begin(r.child.Process)
		beside.Go(func() { r.t.follow(with.signals, r.ended, r.note) })
	} else {
		beside.Go(func() { r.passOn(with.signals) })
	}
	beside.Go(func() { with.watch(ctx, r) })
	_ = r.child.Wait() // how it ended is in ProcessState
	close(r.ended)
	cancel()
	beside.Wait()
}

// note takes note of a signal that is passed on: a command that is told to end is
// not to be started again. Some take all but SIGTERM for something else, so of
// these counts what comes while it is being stopped.
func (r *running) note(s os.Signal) {
	if s == syscall.SIGTERM || r.stopping.Load() && slices.Contains(ending(), s) {
		r.interrupted.Store(true)
	}
}

// stop ends the command: SIGTERM, and after so long SIGKILL. It says whether the
// command was running, and returns when it isn't any more.
func (r *running) stop(grace time.Duration) bool {
	r.stopping.Store(true)
	select {
	case <-r.ended:
		return false
	default:
	}
	r.end(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.ended:
		return true
	case <-timer.C:
	}
	r.end(syscall.SIGKILL)
	<-r.ended
	return true
}

// end sends the command a signal, with all that is in its terminal.
func (r *running) end(s syscall.Signal) {
	if r.t == nil || !r.t.signalAll(s) {
		r.signal(s)
	}
}

// signal sends the command a signal.
func (r *running) signal(s syscall.Signal) {
	_ = r.child.Process.Signal(s) // fails only when the process has ended
}

// use has all output masked by another masker from here on.
func (r *running) use(masker *redact.Masker) {
	for _, u := range r.pumps {
		u.w.Use(masker)
	}
}

// say prints a line for people while the command runs.
func (r *running) say(format string, args ...any) {
	if r.t == nil || !r.t.handsOn() {
		r.p.say(format, args...)
		return
	}
	// The terminal takes a line end for a step down, and the command's line may be open.
	fmt.Fprintf(r.p.stderr, "\r\ndaypass: %s\r\n", clean(fmt.Sprintf(format, args...))) //nolint:errcheck // nowhere left to say it
}

// outputs gives the command its standard output and error, and what passes them on.
func (p *program) outputs(child *exec.Cmd, masker *redact.Masker, t *console) ([]*pump, error) {
	var pumps []*pump
	if t != nil {
		pumps = append(pumps, t.attach(child, masker, p.stdout))
		if child.Stderr != nil {
			return pumps, nil
		}
	} else {
		stdout, err := newPump(masker, p.stdout)
		if err != nil {
			return nil, err
		}
		child.Stdout = stdout.to
		pumps = append(pumps, stdout)
	}
	stderr, err := newPump(masker, p.stderr)
	if err != nil {
		pumps[0].abandon()
		return nil, err
	}
	child.Stderr = stderr.to
	return append(pumps, stderr), nil
}

// drained waits for all output, and says what became of it where that isn't well.
func drained(pumps []*pump) []error {
	late, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var problems []error
	for _, u := range pumps {
		if err := u.drain(late.Done()); err != nil && !errors.Is(err, syscall.EPIPE) {
			problems = append(problems, err)
		}
	}
	return problems
}

// passOn passes signals on to the command until it has ended.
func (r *running) passOn(signals <-chan os.Signal) {
	for {
		select {
		case s := <-signals:
			r.note(s)
			if s == syscall.SIGPIPE || fromTerminal(s) {
				continue
			}
			_ = r.child.Process.Signal(s) // fails only when the process has ended
		case <-r.ended:
			return
		}
	}
}

// fromTerminal says that a signal most likely came from the keyboard: the
// terminal then gave it to the command too, being of the same process group, and
// many programs take a second SIGINT for an order to stop without tidying up.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close() //nolint:errcheck // it was only asked
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

var (
	errStillOpen = errors.New("the command has ended, but something that it started holds its output open: what that still prints is dropped")
	errStuck     = errors.New("whatever reads it does not take any more")
)

// pump passes one of the command's output streams on, masked.
type pump struct {
	to    *os.File // the command's end
	from  *os.File
	w     *redact.Writer
	ended chan error
}

func newPump(masker *redact.Masker, dst io.Writer) (*pump, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making pipe: %w", err)
	}
	return &pump{to, from, masker.Writer(dst), make(chan error, 1)}, nil
}

// begin starts passing on. The command has been started, or never will be.
func (u *pump) begin() {
	_ = u.to.Close() // the command has its own copy
	go func() {
		_, err := io.Copy(u.w, u.from)
		_ = u.from.Close() // when dst is gone, the command learns it from a broken pipe
		if errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EIO) {
			err = nil // it was drain; or the end, as a pseudo-terminal tells of it
		}
		u.ended <- errors.Join(err, u.w.Close())
	}()
}

// drain waits for the end of the stream, at most until late. It then closes it
// under whatever still holds it open, and waits no longer than a moment: when
// dst itself is stuck, giving the session back must not wait for it.
func (u *pump) drain(late <-chan struct{}) error {
	select {
	case err := <-u.ended:
		return err
	case <-late:
	}
	_ = u.from.Close()
	moment := time.NewTimer(drainTimeout / 10)
	defer moment.Stop()
	select {
	case err := <-u.ended:
		return cmp.Or(err, errStillOpen)
	case <-moment.C:
		return errStuck
	}
}

// abandon closes a pump that never began.
func (u *pump) abandon() {
	_ = u.to.Close()
	_ = u.from.Close()
}
