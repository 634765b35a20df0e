// Package disclosures says of a text whose secrets stand in it, masks them, and
// takes them back.
//
// The broker keeps no secret that it gave out. It finds one again by its shape or by
// eight bytes of it (package leaks), and says whose it is by a keyed hash of the
// whole (package prints); so a text is searched for secrets that nobody here could
// name.
//
// Who asks matters more than what is asked. A session token is told of the leases
// that were obtained with it, and of nothing else: neither the answer nor the time
// that it takes says whether a value is somebody else's. Whoever has a log of
// everybody's needs the role redactor or operator, and each thing that is found for
// one of them is on record, once for each place that it is reported from.
//
//	Search   a stream in; what stands in it out, and taken back where that is asked for
//	Mask     a stream in; the same stream out, with masks in place of secrets
//	Watch    the patterns that filters elsewhere mask by, and each change of them
//	Report   single tokens, as the secret scanning of others reports them
package disclosures

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/prints"
)

// Config of a Service. Every field is required, unless it says otherwise.
type Config struct {
	Pool          *pgxpool.Pool
	Store         *leases.Store
	Admins        *admin.Tokens
	Audit         *audit.Recorder
	Prints        *prints.Printer
	SessionTokens *keys.Hasher
	Tenant        string
	Now           func() time.Time
	Notify        func(issuer string) // wakes the revoker; must not block
	// Run says where the provider shows the job of a session; nil: nobody knows.
	Run     func(session *leases.Session) string
	Logger  *slog.Logger // nil: discards
	Observe Observer     // nil: nobody looks

	// MaxAnchors bounds how many values without a shape are known at once, the latest
	// ones; zero: DefaultAnchors.
	MaxAnchors int
	// Requests is how many searches and masked streams one caller may begin a minute;
	// zero: any number. Streams is how many there may be at once; zero: DefaultStreams.
	Requests, Streams int
}

// What holds where the configuration doesn't say.
const (
	DefaultAnchors = 1_000_000
	DefaultStreams = 16
)

// LimitRequests is the name of Config.Requests in the server's configuration.
const LimitRequests = "leak_requests"

// Observer sees what is found and done; for metrics. Its methods must not block.
type Observer interface {
	// Found tells of a value that was found at a place for the first time; kind is one
	// of the Kind constants.
	Found(kind string, live bool)
	// TakenBack tells of a credential that was revoked since it was found.
	TakenBack(kind string)
	// Anchors is how many values without a shape are known.
	Anchors(n int)
	// Running is how many streams are searched or masked now.
	Running(n int)
}

type unobserved struct{}

func (unobserved) Found(string, bool) {}
func (unobserved) TakenBack(string)   {}
func (unobserved) Anchors(int)        {}
func (unobserved) Running(int)        {}

// ErrBusy says that as many streams as there may be are searched or masked at the moment.
var ErrBusy = errors.New("too many streams are searched or masked at once")

// Scope is whose secrets a caller may know of.
type Scope struct {
	// Session: only what was obtained with its token. Nil: everybody's.
	Session *leases.Held
	// Actor is the caller, for the audit log. Rates are counted by it.
	Actor string
}

// Service searches, masks and takes back. Safe for concurrent use.
type Service struct {
	config   Config
	rate     *limit.Rate
	known    *known
	maskers  maskers
	turns    chan struct{}
	watchers chan struct{}
	mu       sync.Mutex
	running  int
	changed  chan struct{} // closed, and replaced, when a rule changed
}

// New checks that nothing is missing.
func New(config Config) (*Service, error) {
	if config.Pool == nil || config.Store == nil || config.Admins == nil || config.Audit == nil || config.Prints == nil || config.SessionTokens == nil ||
		config.Tenant == "" || config.Now == nil || config.Notify == nil {
		return nil, errors.New("opening disclosures: a required field of the configuration is missing")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Observe == nil {
		config.Observe = unobserved{}
	}
	if config.Run == nil {
		config.Run = func(*leases.Session) string { return "" }
	}
	if config.MaxAnchors == 0 {
		config.MaxAnchors = DefaultAnchors
	}
	if config.Streams == 0 {
		config.Streams = DefaultStreams
	}
	s := &Service{config: config, rate: limit.NewRate(config.Requests, config.Now), turns: make(chan struct{}, config.Streams), watchers: make(chan struct{}, maxWatchers), changed: make(chan struct{})}
	s.known = newKnown(&s.config)
	return s, nil
}

// begin takes one of the caller's requests and a place among the streams. What it
// returns gives the place back.
func (s *Service) begin(scope *Scope) (end func(), err error) {
	key := scope.Actor
	if scope.Session != nil {
		key = string(scope.Session.TokenHash[:])
	}
	if wait := s.rate.Take(key); wait > 0 {
		return nil, &limit.Error{Limit: LimitRequests, After: wait}
	}
	return s.place()
}

// place takes one among the streams.
func (s *Service) place() (end func(), err error) {
	select {
	case s.turns <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	s.count(1)
	return func() {
		s.count(-1)
		<-s.turns
	}, nil
}

func (s *Service) count(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running += by
	s.config.Observe.Running(s.running)
}

// lookupTimeout is for what one batch asks of the database.
const lookupTimeout = 10 * time.Second

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, lookupTimeout, fmt.Errorf("%w: it took longer than %s", leases.ErrUnavailable, lookupTimeout))
}
