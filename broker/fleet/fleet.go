// Package fleet is what brokers on one database know of each other: which of
// them does what must be done once ([Fleet.Once]), what just happened on another
// ([Fleet.Subscribe]), and who is there ([Members]).
//
// All of it goes over one connection that leads to the server itself: locks of a
// session and LISTEN are lost in a pooler that gives each transaction another
// session ([CheckDirect] finds out). Nothing that an exchange waits for is here.
//
// A lock is held as long as its connection is, and the server ends a connection
// that was silent for three heartbeats. So the lock of a process that was killed
// is free at once, and that of a machine that vanished, or of a process that was
// stopped, after six seconds; the others ask for it every two. Whoever holds one
// and hears nothing from the server stops after four seconds at the most, before
// anybody else begins. Only a process that was stopped may go on for a moment
// when it wakes up, beside its successor: what is run by Once must do no harm
// when two do it at once.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config of a Fleet.
type Config struct {
	Database *pgx.ConnConfig                                 // required; leads to the server itself
	Check    func(ctx context.Context, conn *pgx.Conn) error // says whether it is the right database; nil: any is
	Member   Member                                          // this broker; its ID and Host are required
	Logger   *slog.Logger                                    // nil: discards
	Observe  Observer                                        // nil: nobody looks
	// Heartbeat is how often the connection shows that it lives; zero: 2 s.
	Heartbeat time.Duration
}

// Observer sees what a broker is in its fleet; for metrics.
type Observer interface {
	Connected(connected bool)        // to the fleet
	Leads(task string, leads bool)   // what is done once is done here
	Noticed(topic string, lost bool) // a notice came, or some may have been lost
}

const (
	defaultHeartbeat = 2 * time.Second
	// silentBeats is how many heartbeats the server waits for before it ends the
	// connection, and gives its locks to others.
	silentBeats = 3
	// memberBeats is how many heartbeats pass between two entries in the table of
	// brokers.
	memberBeats = 5
	// noticePause is how long notices are collected: four times a second at most.
	noticePause = 250 * time.Millisecond
	// maxNotices is how many different ones of a topic wait; of more than that, one
	// that says "read again" remains.
	maxNotices = 64
	// MaxPayload is the longest payload of a notice, in bytes.
	MaxPayload = 200
	// parting is how long what runs once has to end when the broker does: less than
	// the server's patience with a silent connection.
	parting     = 3 * time.Second
	partingLook = 5 * time.Millisecond

	connectTimeout = 5 * time.Second
	firstRetry     = 100 * time.Millisecond
	longestRetry   = 2 * time.Second
)

// Application is the application_name of a broker's connections; the same as
// that of its pool, by which `daypassd keys replace` finds brokers.
const Application = "daypassd"

// Fleet is this broker's place among the others. [Fleet.Run] keeps it. Its
// methods can be called from several goroutines.
type Fleet struct {
	config   Config
	database *pgx.ConnConfig

	mu        sync.Mutex
	tasks     map[string]*task
	handlers  map[string][]func(payload string)
	pending   map[string]map[string]bool // topic → payloads that wait to be sent
	changed   bool                       // what tasks ask for, since the session looked
	held      bool                       // notices went out a moment ago: those that wait are collected
	wake      context.CancelFunc         // ends the wait of a session; nil while there is none
	connected bool
}

// New checks the configuration. Nothing is connected before Run.
func New(config Config) (*Fleet, error) {
	if config.Database == nil || config.Member.ID == "" || config.Member.Host == "" {
		return nil, errors.New("joining the fleet: database, and the broker's id and host, are required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Observe == nil {
		config.Observe = unobserved{}
	}
	if config.Heartbeat == 0 {
		config.Heartbeat = defaultHeartbeat
	}
	f := &Fleet{
		config: config, database: config.Database.Copy(), tasks: map[string]*task{},
		handlers: map[string][]func(string){}, pending: map[string]map[string]bool{},
	}
	silence := silentBeats * config.Heartbeat
	seconds := strconv.Itoa(max(1, int(config.Heartbeat/time.Second)))
	milliseconds := strconv.FormatInt(silence.Milliseconds(), 10)
	f.database.ConnectTimeout = connectTimeout
	params := f.database.RuntimeParams
	params["application_name"] = Application
	// Of a process that stands still, the kernel goes on to answer for it.
	params["idle_session_timeout"] = milliseconds
	// Of a machine that vanished while something was on its way to it.
	params["tcp_user_timeout"] = milliseconds
	params["tcp_keepalives_idle"], params["tcp_keepalives_interval"], params["tcp_keepalives_count"] = seconds, "1", "3"
	params["statement_timeout"] = strconv.FormatInt(config.Heartbeat.Milliseconds(), 10)
	// A notice, or who was there when, may be lost with the server: nobody relies on either.
	params["synchronous_commit"] = "off"
	return f, nil
}

type unobserved struct{}

func (unobserved) Connected(bool)       {}
func (unobserved) Leads(string, bool)   {}
func (unobserved) Noticed(string, bool) {}

// Takeover says how long before anybody else can have a lock its holder stops, if
// it can do anything at all, and after how long at the most another one has it.
func (f *Fleet) Takeover() (margin, most time.Duration) {
	const silence, stops = silentBeats, 2 // a beat that isn't answered, after one that was
	return (silence - stops) * f.config.Heartbeat, (silence + 1) * f.config.Heartbeat
}

// Run keeps the connection until ctx ends, and connects anew where it is lost.
// When it ends, what runs by Once has ended, unless it takes longer than three
// seconds.
func (f *Fleet) Run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		began, err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if began {
			failures = 0
		}
		level := slog.LevelDebug
		if failures == 0 {
			level = slog.LevelWarn // and not each time of an outage
		}
		f.config.Logger.Log(ctx, level, "the connection to the fleet was lost; what runs once in the fleet doesn't run here until it is back", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(min(longestRetry, firstRetry<<min(failures, 10))):
		}
	}
}

// Connected says whether this broker hears of the others, and can be elected.
func (f *Fleet) Connected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.connected
}

// session connects, and serves until that fails; began says that it was connected.
func (f *Fleet) session(ctx context.Context) (began bool, err error) {
	config := f.database.Copy()
	s := &session{fleet: f, locks: map[int64]*task{}}
	config.OnNotification = s.notified
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if s.conn, err = pgx.ConnectConfig(connecting, config); err != nil {
		return false, fmt.Errorf("connecting: %w", err)
	}
	defer s.close(ctx)
	if err := s.begin(connecting); err != nil {
		return false, err
	}
	var lost context.CancelCauseFunc
	s.alive, lost = context.WithCancelCause(context.WithoutCancel(ctx))
	f.setConnected(true)
	err = s.serve(ctx)
	f.setConnected(false)
	if ctx.Err() == nil {
		lost(errLost)
	}
	s.part(ctx)
	lost(errLost)
	return true, err
}

var errLost = errors.New("the connection that held the lock was lost")

func (f *Fleet) setConnected(connected bool) {
	f.mu.Lock()
	f.connected = connected
	if !connected {
		f.wake = nil
	}
	f.mu.Unlock()
	f.config.Observe.Connected(connected)
}

// interrupt ends the wait of the session, if there is one. The caller holds mu.
func (f *Fleet) interrupt() {
	if f.wake != nil {
		f.wake()
	}
}
