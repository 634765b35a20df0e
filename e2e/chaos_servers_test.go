package e2e

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/e2e/chaos"
)

// servers hold a fleet's database: a primary, and in a long run its synchronous
// standby. Every way to one leads through a proxy.
type servers struct {
	t    *testing.T
	base string      // folder of their data
	disk *chaos.Disk // that it is on; nil: the machine's, which nobody fills

	ruining sync.Mutex // of one fault at a time
	made    int        // how many there were

	mu      sync.Mutex
	running [2]*devkit.Postgres // by their proxy; nil while there is none
	proxies [2]*chaos.Proxy
	first   int // the primary's place
}

// diskSize is more than a run of an hour writes.
const diskSize = 3 << 30

// newServers starts the primary. What it confirms is safe from everything but a
// crash of the whole machine.
func newServers(t *testing.T, pair bool) *servers {
	t.Helper()
	// The server's account has to reach it, which it can't in a folder of t.TempDir.
	dir, err := os.MkdirTemp("", "daypass-chaos-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &servers{t: t, base: dir}
	settings := map[string]string{"fsync": "off", "max_connections": "200"}
	if pair {
		s.mountDisk()
		settings["max_wal_size"], settings["wal_keep_size"], settings["wal_retrieve_retry_interval"] = "128MB", "128MB", "200"
	}
	primary, err := devkit.StartPostgres(t.Context(), devkit.PostgresConfig{Dir: s.folder(), TCP: true, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	s.running[0] = primary
	t.Cleanup(func() {
		for _, server := range s.running {
			if server == nil {
				continue
			}
			if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range s.proxies {
		if s.proxies[i], err = chaos.NewProxy(t.Context(), func() string { return s.address(i) }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.proxies[i].Close() })
	}
	return s
}

func (s *servers) mountDisk() {
	var err error
	if s.disk, err = chaos.NewDisk(s.base, diskSize); err != nil {
		s.t.Logf("no disk here can be filled, read-only has to do: %v", err)
		s.disk = nil
		return
	}
	s.t.Cleanup(func() {
		if err := s.disk.Close(); err != nil {
			s.t.Error(err)
		}
	})
}

// folder is a new one, for one server.
func (s *servers) folder() string {
	s.made++
	return filepath.Join(s.base, itoa(s.made))
}

// address is where a place's server listens; nobody does where there is none.
func (s *servers) address(place int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[place] == nil {
		return "127.0.0.1:1"
	}
	return "127.0.0.1:" + itoa(s.running[place].Port())
}

// primary is the one that takes writes, or will once it runs again.
func (s *servers) primary() *devkit.Postgres {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[s.first]
}

// url is how the brokers reach a database: through the proxies.
func (s *servers) url(database string) string {
	u, err := url.Parse(s.primary().TCPDSN(database))
	if err != nil {
		s.t.Fatal("parsing a server's URL")
	}
	var hosts []string
	for _, p := range s.proxies {
		hosts = append(hosts, "127.0.0.1:"+itoa(p.Port()))
	}
	if s.running[1] == nil {
		hosts = hosts[:1]
	}
	u.Host = strings.Join(hosts, ",")
	return u.String()
}

// network does the same to the ways to both.
func (s *servers) network(what func(*chaos.Proxy)) {
	for _, p := range s.proxies {
		what(p)
	}
}

// follow gives the primary a standby, from which on each commit waits for it.
func (s *servers) follow() error {
	s.mu.Lock()
	primary, place := s.running[s.first], 1-s.first
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	standby, err := primary.StartStandbyIn(ctx, s.folder(), nil)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.running[place] = standby
	s.mu.Unlock()
	return primary.AwaitStandby(ctx)
}

// failOver kills the primary for good, promotes its standby after a while, and
// gives that one a new standby.
func (s *servers) failOver(after time.Duration) error {
	s.mu.Lock()
	place := s.first
	old, standby := s.running[place], s.running[1-place]
	s.mu.Unlock()
	old.Kill()
	s.sleep(after)
	if err := standby.Promote(s.t.Context()); err != nil {
		return err
	}
	s.mu.Lock()
	s.running[place], s.first = nil, 1-place
	s.mu.Unlock()
	if err := old.Stop(s.t.Context()); err != nil {
		return err
	}
	if err := os.RemoveAll(old.Dir()); err != nil {
		return err
	}
	return s.follow()
}

// fill leaves no room on the disk for a while, and starts again what died of it.
func (s *servers) fill(length time.Duration) error {
	if err := s.disk.Fill(); err != nil {
		return err
	}
	s.sleep(length)
	if err := s.disk.Free(); err != nil {
		return err
	}
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	for _, server := range running {
		if server == nil {
			continue
		}
		if err := s.awaken(server); err != nil {
			return err
		}
	}
	return nil
}

// awaken returns once a server answers, which may have died, or be at it.
func (s *servers) awaken(server *devkit.Postgres) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, server.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-server.Done():
			return server.Restart(ctx)
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *servers) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.t.Context().Done():
	}
}
