package revoker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daypass/daypass/broker/leases"
)

// loop is the work of one issuer.
type loop struct {
	issuer string
	lane   *lane
	wake   chan struct{} // something is due
	freed  chan struct{} // a target has answered
	sweeps atomic.Bool   // it has leases that leave nothing to undo outside
	held   atomic.Int32  // claimed, and its target has not answered yet
}

// piece is one lease for a worker.
type piece struct {
	leases.Claimed

	probe bool // it is to show whether the target answers again
}

// run claims, and lets workers work, until ctx ends. They never wait for a claim
// as long as there is something to claim: as much again as the target is asked
// about is claimed ahead, and no more, so that it is begun while the claim holds.
// There are twice as many workers as the target is asked at once: it isn't left
// waiting while what came of the last ones is written down.
func (r *Revoker) run(ctx context.Context, l *loop) {
	workers := cap(l.lane.slots)
	queue := make(chan piece, 2*workers)
	var running sync.WaitGroup
	for range 2 * workers {
		running.Go(func() {
			for c := range queue {
				r.work(ctx, l, c)
			}
		})
	}
	for failures := 0; ctx.Err() == nil; {
		sleep, err := r.round(ctx, l, queue)
		if err != nil {
			if ctx.Err() == nil {
				r.config.Logger.ErrorContext(ctx, "looking for what is to be revoked failed", "issuer", l.issuer, "error", err)
			}
			sleep = backoff(failures, longestProbe)
			failures++
		} else {
			failures = 0
		}
		r.wait(ctx, l, sleep)
	}
	close(queue)
	running.Wait()
}

// work takes one lease back, unless that is to wait after all.
func (r *Revoker) work(ctx context.Context, l *loop, c piece) {
	var came *tried
	l.lane.take(func() {
		late := !r.config.Store.Later().Before(c.Until.Add(-r.config.RevokeTime - claimSlack))
		if ctx.Err() != nil || late || l.lane.open() && !c.probe {
			r.release(ctx, c.Claimed)
			return
		}
		t := r.try(ctx, c.Claimed)
		came = &t
	})
	l.held.Add(-1)
	poke(l.freed)
	if came != nil {
		r.record(ctx, l, c.Claimed, *came)
	}
}

func (r *Revoker) wait(ctx context.Context, l *loop, sleep time.Duration) {
	if sleep <= 0 {
		return
	}
	timer := time.NewTimer(sleep)
	defer timer.Stop()
	freed := l.freed
	if int(l.held.Load()) < cap(l.lane.slots) && !l.lane.open() {
		freed = nil // there was room, and nothing to claim: that a worker has finished changes nothing
	}
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-freed:
	case <-timer.C:
	}
}

// round claims once, and says how long there is nothing to claim.
func (r *Revoker) round(ctx context.Context, l *loop, queue chan<- piece) (time.Duration, error) {
	workers := cap(l.lane.slots)
	room := 2*workers - int(l.held.Load())
	probing := false
	if l.lane.open() {
		// What came to its end is no longer active, whether its target answers or not.
		begun, expired, err := r.config.Store.BeginDue(ctx, l.issuer, beginBatch)
		r.ended(l, expired)
		if err != nil || begun == beginBatch {
			return 0, err
		}
		now := r.config.Store.Later()
		var next time.Time
		if probing, next = l.lane.probe(now); !probing {
			return max(time.Millisecond, min(longestSleep, next.Sub(now))), nil
		}
		room = 1
	}
	if room < max(1, workers/2) && !probing {
		return longestSleep, nil // until a worker has finished
	}
	claimed, worked, err := r.claim(ctx, l, room)
	if probing && len(claimed) == 0 {
		l.lane.unprobed()
	}
	l.held.Add(int32(len(claimed))) //nolint:gosec // a claim is small
	for _, c := range claimed {
		queue <- piece{c, probing} // there is room: that is how much was claimed
	}
	switch {
	case err != nil || probing && len(claimed) > 0:
		return longestSleep, err
	case worked == 0:
		return r.untilNext(ctx, l.issuer), nil
	case len(claimed) == 0 && worked < leases.MaxSweep:
		return gather, nil
	}
	return 0, nil
}

// claim sweeps what leaves nothing to undo, and claims what is due, up to room;
// then what waits in the queue of a job.
func (r *Revoker) claim(ctx context.Context, l *loop, room int) (claimed []leases.Claimed, worked int, err error) {
	if l.sweeps.Load() {
		swept, err := r.config.Store.Sweep(ctx, l.issuer, leases.MaxSweep)
		if err != nil {
			return nil, 0, err
		}
		r.ended(l, swept)
		if worked = len(swept); worked == leases.MaxSweep {
			return nil, worked, nil
		}
	}
	hold := aheadTime + r.config.RevokeTime + claimSlack
	claimed, expired, err := r.config.Store.Claim(ctx, l.issuer, room, hold)
	if err != nil {
		return nil, worked, err
	}
	if len(expired) > 0 {
		r.ended(l, expired)
		l.sweeps.Store(true)
	}
	worked += len(claimed) + len(expired)
	if room -= len(claimed); room > 0 && len(expired) == 0 {
		queued, took, err := r.config.Store.ClaimQueued(ctx, l.issuer, room, hold)
		if err != nil {
			r.config.Logger.ErrorContext(ctx, "looking for what jobs revoke failed", "issuer", l.issuer, "error", err)
			return claimed, worked, nil // what was claimed is worked on all the same
		}
		claimed, worked = append(claimed, queued...), worked+took
	}
	return claimed, worked, nil
}

// ended tells who looks of leases that came to their end and left nothing to undo.
func (r *Revoker) ended(l *loop, leases []leases.Swept) {
	if r.config.Observe == nil {
		return
	}
	now := r.config.Store.Later()
	for _, s := range leases {
		r.config.Observe.Revoked(l.issuer, max(0, now.Sub(s.ExpiresAt)))
	}
}

func (r *Revoker) release(ctx context.Context, c leases.Claimed) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimSlack)
	defer cancel()
	if err := r.config.Store.Release(ctx, []leases.Claimed{c}); err != nil {
		r.config.Logger.WarnContext(ctx, "a claim could not be given back; it will run out", "lease", c.ID, "error", err)
	}
}

func (r *Revoker) untilNext(ctx context.Context, issuer string) time.Duration {
	next, err := r.config.Store.NextDue(ctx, issuer)
	if err != nil || next.IsZero() {
		return longestSleep
	}
	return max(time.Millisecond, min(longestSleep, next.Sub(r.config.Store.Later())))
}

// stuckInterval is how often is looked for what is stuck.
const stuckInterval = 15 * time.Second

func (r *Revoker) watchStuck(ctx context.Context) {
	tick := time.NewTicker(stuckInterval)
	defer tick.Stop()
	for {
		if _, err := r.MarkStuck(ctx); err != nil && ctx.Err() == nil {
			r.config.Logger.WarnContext(ctx, "looking for stuck leases failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// MarkStuck marks the revocations that take longer than the grace, of all issuers,
// and says so once for each issuer. It returns how many it marked.
func (r *Revoker) MarkStuck(ctx context.Context) (int, error) {
	marked, err := r.config.Store.MarkStuck(ctx, r.config.Store.Later().Add(-r.config.Grace))
	if err != nil {
		return 0, err
	}
	of := map[string][]leases.StuckNow{}
	for _, l := range marked {
		of[l.Issuer] = append(of[l.Issuer], l)
	}
	for issuer, stuck := range of {
		r.config.Logger.ErrorContext(ctx, "leases should have been taken back long ago (hint: `daypass lease ls --stuck` shows them and what their targets said)",
			"issuer", issuer, "leases", len(stuck), "first", stuck[0].ID, "error", stuck[0].LastError)
	}
	return len(marked), nil
}
