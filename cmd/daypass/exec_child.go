package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/daypass/daypass/broker/redact"
)

// drainTimeout bounds waiting for output after the command ended: whatever it
// left running in the background may hold its output open for ever.
const drainTimeout = 3 * time.Second

// runChild runs the command to its end and returns its exit code as an error.
// With a terminal, the command is in that one; without (nil), it gets pipes.
func (p *program) runChild(child *exec.Cmd, masker *redact.Masker, t *console, signals <-chan os.Signal) error {
	pumps, err := p.outputs(child, masker, t)
	if err != nil {
		return err
	}
	err = child.Start()
	for _, u := range pumps {
		u.begin()
	}
	if err == nil {
		ended := make(chan struct{})
		if t != nil {
			t.begin(child.Process)
			go t.follow(signals, ended)
		} else {
			go passOn(child.Process, signals, ended)
		}
		_ = child.Wait() // how it ended is in ProcessState
		close(ended)
	}
	problems := drained(pumps)
	if t != nil {
		t.end() // before anything is said in it
	}
	for _, problem := range problems {
		p.say("warning: passing on output: %v", problem)
	}
	if err != nil {
		return startError(err)
	}
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &exit{code: exitSignal + int(status.Signal())}
	}
	if code := child.ProcessState.ExitCode(); code != 0 {
		return &exit{code: code}
	}
	return nil
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
func passOn(process *os.Process, signals <-chan os.Signal, ended <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGPIPE || fromTerminal(s) {
				continue
			}
			_ = process.Signal(s) // fails only when the process has ended
		case <-ended:
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
	to     *os.File // the command's end
	from   *os.File
	masker *redact.Masker
	dst    io.Writer
	ended  chan error
}

func newPump(masker *redact.Masker, dst io.Writer) (*pump, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making pipe: %w", err)
	}
	return &pump{to, from, masker, dst, make(chan error, 1)}, nil
}

// begin starts passing on. The command has been started, or never will be.
func (u *pump) begin() {
	_ = u.to.Close() // the command has its own copy
	go func() {
		w := u.masker.Writer(u.dst)
		_, err := io.Copy(w, u.from)
		_ = u.from.Close() // when dst is gone, the command learns it from a broken pipe
		if errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EIO) {
			err = nil // it was drain; or the end, as a pseudo-terminal tells of it
		}
		u.ended <- errors.Join(err, w.Close())
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
