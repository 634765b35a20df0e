// Package sequencer gives each event of the audit log its number, and signs what
// the log says so far.
//
// Events are written in the transactions of what they record, by many brokers at
// once, and none of these waits for another. So their order is made afterwards:
// one broker at a time, under an advisory lock that nobody else takes, looks for
// events without a number, gives them the next ones, and adds their leaf hashes to the
// Merkle tree of package log. At most once a second it signs a checkpoint over all
// that is there.
//
// Transactions commit out of order, and an event's id is made before its
// transaction begins: an event may turn up behind others that have numbers
// already. There is no moment from which one could say "all before this are
// here", and marking events would write each of them twice. So two passes look:
//
//   - the near pass, at each run, from a second (each eighth time: a few) before the
//     oldest transaction that ran at the pass before;
//   - the sweep, which goes over every event once, a minute behind the oldest
//     transaction that runs: what the near pass has missed gets its number from it.
//
// Both compare ids with the numbered ones in the same range, and find the same
// whoever ran before; nothing depends on what a broker remembers.
package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/keys"
)

const (
	// Interval is how long a run waits when the one before found nothing to do.
	Interval = 500 * time.Millisecond
	// MaxLag is how old an event without a number may be before the broker isn't ready.
	MaxLag = 5 * time.Second

	checkpointEvery = time.Second
	signTime        = 10 * time.Second // for the key, which may be in an HSM
	runTime         = 30 * time.Second // for one run

	nearMargin  = time.Second      // requests wait for their transaction
	farMargin   = 10 * time.Second // clocks differ by two
	farEvery    = 8
	farCheap    = 20_000           // events that may be looked at again at each run
	nearMost    = 15 * time.Second // how far the near pass looks back at the most
	sweepMargin = time.Minute
	sweepChunks = 4 // that the sweep looks at in one run

	maxBatch = 10_000
)

// Config of a Sequencer. Every field is required, unless it says otherwise.
type Config struct {
	Pool         *pgxpool.Pool
	Audit        *audit.Recorder
	Installation string
	Key          keys.Signer // signs checkpoints; nil: none is signed
	// CheckpointFile is appended to with each checkpoint; "": none is.
	CheckpointFile string
	Batch          int // events that get their numbers in one transaction; 0: 10,000
	Logger         *slog.Logger
	Observe        Observer
	Now            func() time.Time
}

// Observer is told what there is to count.
type Observer interface {
	Sequenced(events int)
	// Forged counts events whose body, hash and MAC don't belong together.
	Forged(events int)
	Lag(age time.Duration) // of the oldest event that a run found without a number
	Signed(size int64)
	// Failing says whether checkpoints can't be signed, or not be written to their file.
	Failing(what string, failing bool)
}

// What Observer.Failing is told of.
const (
	FailingSignature = "signature"
	FailingFile      = "file"
	FailingLog       = "log" // it isn't the one that was signed
)

// Counts is what one run did.
type Counts struct {
	Events     int   // that got their numbers
	Forged     int   // of these, whose body, hash and MAC don't belong together
	Size       int64 // of the log
	Checkpoint bool  // one was signed
	Elsewhere  bool  // another broker is at it
	Lag        time.Duration
	more       bool // there is more to do at once
}

// Sequencer is safe for concurrent use; what it does is done by one broker at a time.
type Sequencer struct {
	config Config
	origin string
	file   *checkpointFile // nil: none

	running sync.Mutex // one run at a time
	tree    *auditlog.Tree
	near    string // where the near pass begins
	far     string // where each eighth begins
	passed  int    // near passes
	looked  int    // events that the last one looked at
	swept   string // where the sweep is
	settled string // what the database said of that last
	signed  *auditlog.Checkpoint
	signAt  time.Time // not before
	adopted bool      // Key is on record
	told    map[string]time.Time
}

// New opens the checkpoint file, and reads the last checkpoint from it.
func New(config Config) (*Sequencer, error) {
	if config.Pool == nil || config.Audit == nil || config.Installation == "" || config.Logger == nil || config.Observe == nil || config.Now == nil {
		return nil, errors.New("making the audit log's sequencer: a required field of its configuration is missing")
	}
	if config.Batch <= 0 || config.Batch > maxBatch {
		config.Batch = maxBatch
	}
	s := &Sequencer{config: config, origin: auditlog.Origin(config.Installation), told: map[string]time.Time{}}
	if config.Key == nil {
		config.Logger.Warn("the audit log's checkpoints are not signed: whoever writes to the database can change it unseen (hint: configure keys.audit)")
		if config.CheckpointFile != "" {
			return nil, errors.New("audit.checkpoint_file without keys.audit: nothing signs what is to be written to it")
		}
		return s, nil
	}
	if _, err := auditlog.NewKey(s.origin, config.Key.Public()); err != nil {
		return nil, fmt.Errorf("keys.audit: %w (hint: algorithm: ES256 or EdDSA)", err)
	}
	if config.CheckpointFile == "" {
		return s, nil
	}
	var err error
	if s.file, s.signed, err = openFile(config.CheckpointFile); err != nil {
		return nil, err
	}
	if s.signed != nil && s.signed.Origin != s.origin {
		return nil, errors.Join(fmt.Errorf("the checkpoint file %s is of %s, and this is %s (hint: give each installation a file of its own)", config.CheckpointFile, s.signed.Origin, s.origin), s.file.Close())
	}
	return s, nil
}

// Close lets go of the checkpoint file. Run must have returned.
func (s *Sequencer) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// Run gives events their numbers until ctx ends.
func (s *Sequencer) Run(ctx context.Context) {
	for {
		counts, err := s.RunOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.tell(ctx, "the audit log could not be continued; it is tried again", err)
		}
		if err == nil && counts.more {
			continue
		}
		timer := time.NewTimer(Interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

const tellEvery = time.Minute

// tell logs an error, and the same one again after a minute.
func (s *Sequencer) tell(ctx context.Context, message string, err error) {
	now := s.config.Now()
	if at, seen := s.told[message]; seen && now.Sub(at) < tellEvery {
		return
	}
	s.told[message] = now
	s.config.Logger.ErrorContext(ctx, "the audit log is in trouble", "what", message, "error", err)
}

// RunOnce gives all events that are there their numbers, looks at some more that may
// have come late, and signs a checkpoint when it is time.
func (s *Sequencer) RunOnce(ctx context.Context) (Counts, error) {
	s.running.Lock()
	defer s.running.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, runTime, errors.New("continuing the audit log took longer than 30 s"))
	defer cancel()
	var counts Counts
	if err := s.passes(ctx, &counts); err != nil {
		return counts, fmt.Errorf("continuing the audit log: %w", err)
	}
	s.config.Observe.Lag(counts.Lag)
	if counts.Elsewhere {
		return counts, nil
	}
	if err := s.checkpoint(ctx, &counts); err != nil {
		return counts, fmt.Errorf("signing the audit log: %w", err)
	}
	return counts, nil
}

// Status is what /readyz says of the log besides its lag.
func (s *Sequencer) Status() string {
	if s.config.Key == nil {
		return "ok; checkpoints are not signed: keys.audit is not configured"
	}
	return "ok"
}
