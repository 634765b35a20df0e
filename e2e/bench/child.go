package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// child is a server in a process of its own. It says in its log, as JSON, where
// it serves.
type child struct {
	name    string
	log     string
	process *os.Process
	ended   chan struct{} // closed when it has
	failure error         // how it ended; read after ended
	address string
}

const (
	startTime = 30 * time.Second
	stopTime  = 15 * time.Second
	lookEvery = 5 * time.Millisecond
)

// startChild starts a program and returns when it serves. Its log goes to a file
// of its own, as in production, and not through this program.
func startChild(ctx context.Context, log string, argv ...string) (*child, error) {
	name := filepath.Base(argv[0])
	c := &child{name: name, log: log, ended: make(chan struct{})}
	started := make(chan error, 1)
	go c.live(context.WithoutCancel(ctx), started, argv)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("%s took longer than %s to start", name, startTime))
	defer cancel()
	for {
		if c.address = c.serving(); c.address != "" {
			return c, nil
		}
		select {
		case <-c.ended:
			return nil, fmt.Errorf("%s ended at its start: %w\n%s", name, c.failure, c.lastLines())
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), c.stop())
		case <-time.After(lookEvery):
		}
	}
}

// live is the process's life. The kernel ends the child with the thread that
// forked it, so this goroutine keeps its thread.
func (c *child) live(ctx context.Context, started chan<- error, argv []string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		started <- err
		return
	}
	defer log.Close() //nolint:errcheck // a log
	// A context that ends would kill it; this one doesn't, and stop lets it finish first.
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // G204: programs that were built a moment ago
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	endWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	c.process = cmd.Process
	started <- nil
	c.failure = cmd.Wait()
	close(c.ended)
}

// serving looks for the line that names the address.
func (c *child) serving() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(text) {
		var entry struct{ Msg, Address string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
			return entry.Address
		}
	}
	return ""
}

func (c *child) lastLines() []byte {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return nil
	}
	return text[max(0, len(text)-2000):]
}

func (c *child) pid() int { return c.process.Pid }

// stop lets the child finish, and kills it when that takes too long.
func (c *child) stop() error {
	if err := c.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", c.name, err)
	}
	select {
	case <-c.ended:
		return nil
	case <-time.After(stopTime):
	}
	err := c.process.Kill()
	<-c.ended
	return errors.Join(fmt.Errorf("%s did not stop within %s", c.name, stopTime), err)
}
