package disclosures

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
)

// Topic is that of the notices which say that a rule changed.
const Topic = "redaction"

const (
	// Beat is how often a watcher is told that nothing changed, and rules are read
	// whoever was told what.
	Beat = 15 * time.Second
	// maxWatchers is how many there may be on one broker.
	maxWatchers = 500

	keepEvery  = 10 * time.Minute
	lookEvery  = 2 * time.Second
	keepAtMost = 20 * time.Second
)

// RulesConfig of the rules in force. Every field is required.
type RulesConfig struct {
	Policies func() *policies.Set // the set in force
	// Server are the rules of the server's configuration.
	Server []leases.Rule
	// Keep is how long logs are kept: a rule ends so long after the last broker had it.
	Keep time.Duration
	// Announce tells the other brokers that a rule changed.
	Announce func()
}

// inForce are the rules of the policies and the configuration.
func (c *RulesConfig) inForce() []leases.Rule {
	list := append([]leases.Rule{}, c.Server...)
	for _, grant := range c.Policies().Grants() {
		for _, pattern := range grant.Redact {
			policy, name, _ := strings.Cut(grant.Name, "/")
			rule := leases.GrantRule(policy, name, pattern)
			rule.Owner = grant.Owner
			list = append(list, rule)
		}
	}
	return list
}

// KeepRules keeps the rules in force on record until ctx ends, and gives memory back
// that nobody uses.
func (s *Service) KeepRules(ctx context.Context, config RulesConfig) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var digest string
	var kept time.Time
	for failed := false; ; {
		set := config.Policies().Digest()
		if now := s.config.Now(); set != digest || now.Sub(kept) > keepEvery || now.Before(kept) {
			err := s.KeepRulesOnce(ctx, config)
			if err != nil && !failed && ctx.Err() == nil {
				s.config.Logger.WarnContext(ctx, "redaction rules could not be put on record; it is tried again", "error", err)
			}
			if failed = err != nil; !failed {
				digest, kept = set, now
			}
		}
		s.known.forget()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// KeepRulesOnce puts the rules in force on record, and says to watchers that they
// changed.
func (s *Service) KeepRulesOnce(ctx context.Context, config RulesConfig) error {
	ctx, cancel := context.WithTimeoutCause(ctx, keepAtMost, fmt.Errorf("%w: keeping redaction rules took longer than %s", leases.ErrUnavailable, keepAtMost))
	defer cancel()
	changed, err := s.config.Store.KeepRules(ctx, config.inForce(), s.config.Store.Now().Add(config.Keep))
	if err == nil && changed {
		s.Wake()
		config.Announce()
	}
	return err
}

// Wake has watchers look for changes. It never blocks.
func (s *Service) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Service) wake() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Rules reads the patterns that apply to a session's logs, or all of them.
func (s *Service) Rules(ctx context.Context, scope Scope) ([]leases.Rule, error) {
	if scope.Session != nil {
		return s.config.Store.RulesOf(ctx, scope.Session.TokenHash)
	}
	return s.config.Store.Rules(ctx)
}

// ErrWatchers says that as many watch the rules as may.
var ErrWatchers = errors.New("too many watch the redaction rules")

// Change is what became of the rules since a watcher heard of them last: those that
// are new or other than before, and the ids of those that apply no more. Both are
// empty where nothing changed.
type Change struct {
	Rules   []leases.Rule
	Removed []string
}

// Watch tells of all rules, and then of each change, at least every [Beat], until tell
// returns an error or ctx ends. A failure of the database is waited out: watchers go on
// with what they have.
func (s *Service) Watch(ctx context.Context, scope Scope, tell func(Change) error) error {
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return ErrWatchers
	}
	told := map[string]leases.Rule{}
	for first := true; ; first = false {
		changed := s.wake()
		rules, err := s.rulesSoon(ctx, scope)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && first:
			return err
		case err != nil:
			rules = nil
		}
		change := Change{}
		if err == nil {
			change = difference(told, rules)
		}
		if err := tell(change); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(Beat):
		}
	}
}

func (s *Service) rulesSoon(ctx context.Context, scope Scope) ([]leases.Rule, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return s.Rules(ctx, scope)
}

// difference is what a watcher hasn't been told, and is told with it.
func difference(told map[string]leases.Rule, rules []leases.Rule) (change Change) {
	now := map[string]bool{}
	for _, rule := range rules {
		now[rule.ID] = true
		if before, known := told[rule.ID]; !known || !reflect.DeepEqual(before, rule) {
			told[rule.ID] = rule
			change.Rules = append(change.Rules, rule)
		}
	}
	for id := range told {
		if !now[id] {
			delete(told, id)
			change.Removed = append(change.Removed, id)
		}
	}
	return change
}
