package disclosures

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leaks"
	"github.com/daypass/daypass/broker/leases"
)

const (
	pageOfAnchors = 10_000
	// settled is how long after a lease has its id its anchors may still come.
	settled = 2 * time.Minute
	// fresh is how old what is known may be when a search begins.
	fresh = time.Second
	// rebuilt is how often it is read anew, so that what retention deleted goes.
	rebuilt = 24 * time.Hour
	// idle is after how long without a search its memory is given back.
	idle = time.Hour
	// maxOwn is how many values of one session are looked for.
	maxOwn = 10_000
	// loadTimeout is for all that there is to read.
	loadTimeout = time.Minute
)

// known are the anchors of everybody's values, in this process's memory under a key
// of its own. They are read when somebody searches, and then as they come: a broker
// that nobody asks holds none.
type known struct {
	config *Config

	mu      sync.Mutex
	anchors *leaks.Anchors
	seen    map[uint64]struct{} // the fingerprints' first bytes: a value that many leases got is one
	upTo    time.Time           // leases until then were read
	read    time.Time           // when it was read last
	began   time.Time           // when it was read as a whole
	used    time.Time
}

func newKnown(config *Config) *known { return &known{config: config} }

// get brings what is known up to date.
func (k *known) get(ctx context.Context) (_ *leaks.Anchors, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, loadTimeout, fmt.Errorf("%w: reading anchors took longer than %s", leases.ErrUnavailable, loadTimeout))
	defer cancel()
	now := k.config.Store.Now()
	k.used = now
	switch age := now.Sub(k.read); {
	case k.anchors == nil || now.Sub(k.began) > rebuilt || k.anchors.Len() >= k.config.MaxAnchors:
		err = k.rebuild(ctx, now)
	case age > fresh || age < 0:
		err = k.add(ctx, ids.From(ids.Lease, k.upTo.Add(-settled)), k.config.MaxAnchors)
		if err == nil {
			k.upTo, k.read = now, now
		}
	}
	if err != nil {
		return nil, err
	}
	k.config.Observe.Anchors(k.anchors.Len())
	return k.anchors, nil
}

// rebuild reads all of it, the latest first, up to three quarters of what there may
// be: those that come have room.
func (k *known) rebuild(ctx context.Context, now time.Time) error {
	former, seen := k.anchors, k.seen
	k.anchors, k.seen = leaks.NewAnchors(), map[uint64]struct{}{}
	if err := k.add(ctx, "", k.config.MaxAnchors-k.config.MaxAnchors/4); err != nil {
		k.anchors, k.seen = former, seen
		return err
	}
	k.upTo, k.read, k.began = now, now, now
	return nil
}

// add reads anchors of leases from an id on, the latest first, until there are most.
func (k *known) add(ctx context.Context, from string, most int) error {
	for upTo := ""; k.anchors.Len() < most; {
		wanted := min(pageOfAnchors, most-k.anchors.Len()+1) // one for the lease that the page before ended with
		page, err := k.config.Store.Anchors(ctx, k.config.Prints.KeyID(), from, upTo, wanted)
		if err != nil {
			return err
		}
		for i := range page {
			id := binary.BigEndian.Uint64(page[i].Sum[:])
			if _, already := k.seen[id]; already {
				continue
			}
			k.seen[id] = struct{}{}
			learn(k.config, k.anchors, &page[i])
		}
		if len(page) < wanted || page[len(page)-1].LeaseID == upTo {
			return nil
		}
		upTo = page[len(page)-1].LeaseID
	}
	return nil
}

// learn adds an anchor as it is stored. What can't be read finds nothing.
func learn(config *Config, anchors *leaks.Anchors, a *leases.Anchored) {
	if open, ok := config.Prints.Open(&a.Sum, a.Anchor); ok {
		_ = anchors.Add(leaks.Anchor{Window: open.Window, Offset: open.Offset, Length: open.Length}) // Open checked its place
	}
}

// forget gives the memory back that nobody has used for a while.
func (k *known) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.anchors != nil && k.config.Store.Now().Sub(k.used) > idle {
		k.anchors, k.seen = nil, nil
		k.config.Observe.Anchors(0)
	}
}

// own are the anchors of what one session token obtained, and their fingerprints.
func (s *Service) own(ctx context.Context, held *leases.Held) (anchors *leaks.Anchors, sums map[[32]byte]bool, err error) {
	found, err := s.config.Store.AnchorsOf(ctx, s.config.Prints.KeyID(), held, maxOwn)
	if err != nil {
		return nil, nil, err
	}
	anchors, sums = leaks.NewAnchors(), map[[32]byte]bool{}
	for i := range found {
		if sums[found[i].Sum] {
			continue
		}
		sums[found[i].Sum] = true
		learn(&s.config, anchors, &found[i])
	}
	return anchors, sums, nil
}
