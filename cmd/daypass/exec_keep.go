package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/redact"
)

// What --on-expiry says to do about credentials that can't be renewed any further.
const (
	onExpiryWarn    = "warn"
	onExpiryStop    = "stop"
	onExpiryRestart = "restart"
	onExpiryReissue = "reissue"
)

const (
	// stopMargin is how long before the end of its credentials a command that is
	// stopped has to be gone.
	stopMargin = 5 * time.Second
	// maxStopGrace is the longest --stop-grace.
	maxStopGrace = 10 * time.Minute
	// firstTryPause and lastTryPause are between tries to get credentials anew.
	firstTryPause = time.Second
	lastTryPause  = 30 * time.Second
	// linger is how long an exchange that is on its way is waited for when the
	// command has ended: what it brings can be given back then.
	linger = 5 * time.Second
	// maxMasked is of how many generations the values are masked: the first, which
	// the command's environment holds for ever, and the last ones.
	maxMasked = 4
)

// expiry is what to do when credentials end before the command does.
type expiry struct {
	mode   string
	grace  time.Duration  // between SIGTERM and SIGKILL
	signal syscall.Signal // for the command, after its files were replaced; 0 for none
}

// parseExpiry reads the flags that are about it.
func parseExpiry(mode string, grace time.Duration, signal string, files int) (expiry, error) {
	e := expiry{mode: mode, grace: grace}
	switch {
	case !slices.Contains([]string{onExpiryWarn, onExpiryStop, onExpiryRestart, onExpiryReissue}, mode):
		return e, usage("--on-expiry %q: want warn, stop, restart or reissue", mode)
	case grace < 0 || grace > maxStopGrace:
		return e, usage("--stop-grace %v: want 0s to %v", grace, maxStopGrace)
	case mode == onExpiryReissue && files == 0:
		return e, usage("--on-expiry reissue replaces what stands in files, and there is none (hint: --file VARIABLE=POLICY/GRANT:FIELD; a command that reads its environment alone needs --on-expiry restart)")
	case signal == "":
		return e, nil
	case mode != onExpiryReissue:
		return e, usage("--reissue-signal goes with --on-expiry reissue")
	}
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2}
	var ok bool
	if e.signal, ok = signals[strings.TrimPrefix(strings.ToUpper(signal), "SIG")]; !ok {
		return e, usage("--reissue-signal %q: want HUP, USR1 or USR2", signal)
	}
	return e, nil
}

// keeper keeps a command in credentials for as long as it runs.
type keeper struct {
	*holdings
	path    string
	what    *execution
	files   *fileSet
	signals <-chan os.Signal

	masked  []*generation // whose values are masked
	current ready         // what the command has
	old     *generation   // what it had before, not given back yet

	next    *ready // with which the command is to be started again
	stopped error  // why it was stopped for good
}

// ready is a generation with all that a command needs made of it.
type ready struct {
	*generation
	masker *redact.Masker
	env    []string
}

// prepare makes what a command needs, so that nothing is taken from it before the
// fresh credentials are known to be of use.
func (k *keeper) prepare(g *generation) (r ready, err error) {
	masked := append(slices.Clone(k.masked), g)
	if len(masked) > maxMasked {
		masked = slices.Delete(masked, 1, 2)
	}
	r.generation = g
	if r.masker, err = k.p.masker(masked, k.what.keepOIDC); err != nil {
		return r, err
	}
	if r.env, err = k.p.childEnv(os.Environ(), g.answer.Credentials, k.what.keepOIDC); err != nil {
		return r, err
	}
	if _, err = k.files.contents(g.part(k.files.has)); err != nil {
		return r, err
	}
	k.masked = masked
	return r, nil
}

// run runs the command to its end, and starts it again as often as it has to.
func (k *keeper) run(ctx context.Context, first *generation) error {
	now, err := k.prepare(first)
	if err != nil {
		return err
	}
	for {
		if err := k.files.write(now.answer); err != nil {
			return err
		}
		child := exec.CommandContext(context.WithoutCancel(ctx), k.path) //nolint:gosec // running what the caller names is the purpose
		child.Args, child.Env, child.Stdin = k.what.args, append(now.env, k.files.env()...), k.p.stdin
		var t *console
		if k.what.tty {
			t = k.p.openConsole()
		}
		k.current, k.next = now, nil
		interrupted, err := k.p.runChild(ctx, child, company{now.masker, t, k.signals, k.watch})
		switch {
		case k.stopped != nil:
			return &exit{exitFailed, k.stopped}
		case k.next == nil || interrupted:
			return err
		}
		if s := pending(k.signals); s != 0 {
			return &exit{code: exitSignal + int(s)}
		}
		k.old, now = k.current.generation, *k.next
	}
}

// pending is a signal to end that came when there was no command to pass it on to.
func pending(signals <-chan os.Signal) syscall.Signal {
	for {
		select {
		case s := <-signals:
			if asked, ok := s.(syscall.Signal); ok && slices.Contains(ending(), s) {
				return asked
			}
		default:
			return 0
		}
	}
}

// watch does what is to be done beside a command, until ctx ends with it.
func (k *keeper) watch(ctx context.Context, r *running) {
	if k.old != nil { // of the command before this one
		k.release(ctx, k.old, everyGrant)
		k.old = nil
	}
	switch k.what.expiry.mode {
	case onExpiryStop:
		k.stopInTime(ctx, r)
	case onExpiryRestart:
		k.restart(ctx, r)
	case onExpiryReissue:
		var beside sync.WaitGroup
		beside.Go(func() { // what stands in the environment can't be replaced
			k.warn(ctx, r, k.current.generation, func(grant string) bool { return !k.files.has(grant) })
		})
		k.reissue(ctx, r)
		beside.Wait()
	default:
		k.warn(ctx, r, k.current.generation, everyGrant)
	}
}

// warn says, once for each credential, that it will end.
func (k *keeper) warn(ctx context.Context, r *running, g *generation, of func(grant string) bool) {
	k.c.KeepAlive(ctx, g.part(of), client.Told{Renewed: g.extend, Ended: func(c api.Credential, err error) {
		r.say("warning: the credential of %s ends at %s: %v; the command goes on (hint: --on-expiry restart or reissue gets another, stop ends the command before it; or a larger ttl or max_ttl in the policy)",
			c.Grant, stamp(c.ExpiresAt), err)
	}})
}

// endingCredential is one that alive tells of.
type endingCredential struct {
	api.Credential
	err error
}

// alive keeps credentials alive until the function that it returns is called. It
// tells of each that will end, and of each that got a later end.
func (k *keeper) alive(ctx context.Context, g *generation, of func(grant string) bool) (ended <-chan endingCredential, renewed <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	told, moved, done := make(chan endingCredential, api.MaxGrants), make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		k.c.KeepAlive(ctx, g.part(of), client.Told{Renewed: func(c api.Credential) {
			g.extend(c)
			select {
			case moved <- struct{}{}:
			default: // it was told already
			}
		}, Ended: func(c api.Credential, err error) {
			select {
			case told <- endingCredential{c, err}:
			default: // so many have been told that one more makes no difference
			}
		}})
	}()
	return told, moved, func() {
		cancel()
		<-done
	}
}

// inTime is how long it is until the command has to be stopped, so that it is gone
// when the first of its credentials ends. Those that live for less than a minute get
// two thirds of their life all the same.
func (k *keeper) inTime() time.Duration {
	first := k.current.first(everyGrant)
	if first.ExpiresAt.IsZero() {
		return 1<<63 - 1
	}
	return time.Until(first.ExpiresAt) - min(k.what.expiry.grace+stopMargin, first.ExpiresAt.Sub(first.since)/3)
}

// stopInTime stops the command before the first of its credentials ends.
func (k *keeper) stopInTime(ctx context.Context, r *running) {
	ended, renewed, stop := k.alive(ctx, k.current.generation, everyGrant)
	defer stop()
	why, said := error(nil), false
	for {
		late := time.NewTimer(k.inTime())
		select {
		case <-ctx.Done():
			late.Stop()
			return
		case <-renewed: // later, then
		case e := <-ended:
			if client.Ended(e.err) {
				k.stop(r, e.err)
				return
			}
			if e.LeaseID == k.current.first(everyGrant).LeaseID && !said {
				why, said = e.err, true
				r.say("warning: the credential of %s ends at %s: %v; the command will be stopped before", e.Grant, stamp(e.ExpiresAt), e.err)
			}
		case <-late.C:
			k.stop(r, why)
			return
		}
		late.Stop()
	}
}

// stop ends the command for good.
func (k *keeper) stop(r *running, why error) {
	first := k.current.first(everyGrant)
	if why == nil {
		why = errNotInTime
	}
	k.stopped = fmt.Errorf("stopped the command: the credential of %s ends at %s: %w", first.Grant, stamp(first.ExpiresAt), why)
	if !r.stop(k.what.expiry.grace) {
		k.stopped = nil // it had ended by itself
	}
}

var errNotInTime = errors.New("it was not renewed in time")

// restart gets all credentials anew before one of them ends, and has the command
// started again with them.
func (k *keeper) restart(ctx context.Context, r *running) {
	ended, _, stop := k.alive(ctx, k.current.generation, everyGrant)
	defer stop()
	var why error
	select {
	case <-ctx.Done():
		return
	case e := <-ended:
		why = e.err
	}
	next, err := k.replace(ctx, r, replacing{of: everyGrant, old: k.current.generation, late: time.Now().Add(k.inTime())})
	switch {
	case ctx.Err() != nil, r.interrupted.Load(): // it has ended, or is about to; what was got is given back with the rest
	case err != nil:
		k.stop(r, fmt.Errorf("%w; others could not be had: %w", why, err))
	default:
		if k.next = next; !r.stop(k.what.expiry.grace) {
			k.next = nil
		}
	}
}

// reissue replaces what stands in files whenever it is about to end.
func (k *keeper) reissue(ctx context.Context, r *running) {
	now := k.current.generation
	var old *generation
	for {
		ended, _, stop := k.alive(ctx, now, k.files.has)
		select {
		case <-ctx.Done():
			stop()
			return
		case <-ended:
		}
		if old != nil {
			k.release(ctx, old, k.files.has) // two generations are enough
			old = nil
		}
		next, err := k.replace(ctx, r, replacing{of: k.files.has, old: now, install: func(next ready) error {
			// Nothing may print what isn't masked yet.
			r.use(next.masker)
			return k.files.write(next.answer)
		}})
		stop()
		if err != nil {
			return // the command has ended
		}
		if k.what.expiry.signal != 0 {
			r.signal(k.what.expiry.signal)
		}
		old, now = now, next.generation
	}
}

// replacing is a search for credentials in place of others.
type replacing struct {
	of      func(grant string) bool
	old     *generation
	late    time.Time         // it is given up then; never when zero
	install func(ready) error // nil: nothing is to be done with them yet
}

// replace gets credentials anew, however many tries that takes.
func (k *keeper) replace(ctx context.Context, r *running, what replacing) (*ready, error) {
	said, over := false, false
	for pause := firstTryPause; ; pause = min(2*pause, lastTryPause) {
		next, err := k.try(ctx, r, what)
		if err == nil || ctx.Err() != nil {
			return next, cmp.Or(err, ctx.Err())
		}
		left := time.Until(what.late)
		first := what.old.first(what.of)
		if what.late.IsZero() {
			left = lastTryPause
		}
		switch {
		case left <= 0:
			return nil, err
		case !said:
			said = true
			r.say("warning: the credential of %s ends at %s, and others can't be had: %v; trying again", first.Grant, stamp(first.ExpiresAt), err)
		case !over && time.Now().After(first.ExpiresAt):
			over = true
			r.say("warning: the credential of %s has ended, and others still can't be had: %v; trying on", first.Grant, err)
		}
		timer := time.NewTimer(min(pause, left))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// try gets credentials anew once. An exchange that is on its way when the command
// ends is waited for, for a moment.
func (k *keeper) try(ctx context.Context, r *running, what replacing) (*ready, error) {
	asking, cancel := lingering(ctx)
	defer cancel()
	if !what.late.IsZero() { // but never less than a moment
		asking, cancel = context.WithDeadline(asking, latest(what.late, time.Now().Add(linger)))
		defer cancel()
	}
	g, err := k.fresh(asking, what.old, what.of)
	if err != nil {
		if asking.Err() != nil {
			r.say("warning: fresh credentials were asked for, and no answer came in time: if there are any, they end by themselves")
		}
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // they are given back with the rest
	}
	next, err := k.prepare(g)
	if err == nil && what.install != nil {
		err = what.install(next)
	}
	if err != nil {
		k.release(ctx, g, everyGrant)
		return nil, err
	}
	return &next, nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lingering is ctx, and a moment longer.
func lingering(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(linger)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-out.Done():
		}
	})
	return out, func() {
		stop()
		cancel()
	}
}
