//go:build checkpoints && linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

// checkpoint stops the process at one step, for the tests of what a crash
// leaves behind: DAYPASS_CHECKPOINT=STEP kills it there, STEP:STOP stops it until
// SIGCONT. A step is passed over until the file DAYPASS_CHECKPOINT_ARMED exists.
func checkpoint() func(step string) {
	step, action, _ := strings.Cut(os.Getenv("DAYPASS_CHECKPOINT"), ":")
	armed := os.Getenv("DAYPASS_CHECKPOINT_ARMED")
	return func(at string) {
		if step == "" || at != step {
			return
		}
		if _, err := os.Stat(armed); err != nil {
			return
		}
		if action == "STOP" {
			stopHere()
			return
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

// stopHere sends SIGSTOP to this very thread: one to the process may be taken by
// another thread, and this one would go on for a while.
func stopHere() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
}

// fault reads what is to go wrong from a file in the folder DAYPASS_FAULTS; "" when
// nothing is.
func fault(name string) string {
	dir := os.Getenv("DAYPASS_FAULTS")
	if dir == "" {
		return ""
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return string(text)
}

// clock is off by what the file `clock` says. It is looked at now and then: a clock
// is read often.
func clock() func() time.Time {
	var offset, next atomic.Int64
	return func() time.Time {
		now := time.Now()
		if due := next.Load(); now.UnixNano() >= due && next.CompareAndSwap(due, now.Add(50*time.Millisecond).UnixNano()) {
			by, err := time.ParseDuration(fault("clock"))
			if err != nil {
				by = 0
			}
			offset.Store(int64(by))
		}
		return now.Add(time.Duration(offset.Load()))
	}
}

// unruly makes an issuer of kind postgres do what the file `issuer` says: hang,
// lie, panic or forget. What it forgot stands in files beside that one.
func unruly(issuer issuers.Issuer) issuers.Issuer {
	if p, ok := issuer.(*postgres.Issuer); ok {
		return &unrulyIssuer{Issuer: p}
	}
	return issuer
}

// unrulyIssuer can do whatever a real one can.
type unrulyIssuer struct {
	*postgres.Issuer

	calls atomic.Int64
}

// before is what goes wrong instead of a call.
func (u *unrulyIssuer) before(ctx context.Context) error {
	if fault("issuer") == "panic" && u.calls.Add(1)%2 == 0 {
		panic("a mistake in an issuer")
	}
	for fault("issuer") == "hang" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: hanging: %w", issuers.ErrUnavailable, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// after is what goes wrong once the work was done.
func (u *unrulyIssuer) after(err error) error {
	switch fault("issuer") {
	case "panic":
		panic("a mistake in an issuer")
	case "lie":
		return fmt.Errorf("%w: nothing was done (it was)", issuers.ErrUnavailable)
	}
	return err
}

func (u *unrulyIssuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := u.before(ctx); err != nil {
		return nil, err
	}
	response, err := u.Issuer.Issue(ctx, req)
	return response, u.after(err)
}

func (u *unrulyIssuer) Renew(ctx context.Context, req *issuers.RenewRequest) error {
	if err := u.before(ctx); err != nil {
		return err
	}
	return u.after(u.Issuer.Renew(ctx, req))
}

func (u *unrulyIssuer) Revoke(ctx context.Context, req *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	if err := u.before(ctx); err != nil {
		return nil, err
	}
	if fault("issuer") == "forget" {
		path := filepath.Join(os.Getenv("DAYPASS_FAULTS"), "forgot-"+req.Lease.ID)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return nil, fmt.Errorf("%w: %w", issuers.ErrUnavailable, err)
		}
		return &issuers.RevokeResponse{Found: true}, nil
	}
	response, err := u.Issuer.Revoke(ctx, req)
	return response, u.after(err)
}
