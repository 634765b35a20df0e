package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// overload is what a machine needs at most that has far too much to do.
const overload = 3 * time.Minute

// guarded is exec with a command that waits until the test has it end.
type guarded struct {
	t       *testing.T
	fake    *fakeBroker
	dir     string
	cmd     *exec.Cmd
	command int // the command's process
	ended   chan error
}

// guard starts it. Change may give exec more, before it starts.
func guard(t *testing.T, fake *fakeBroker, change func(*exec.Cmd), args ...string) *guarded {
	t.Helper()
	server := httptest.NewServer(fake.routes())
	t.Cleanup(server.Close)
	g := &guarded{t: t, fake: fake, dir: t.TempDir(), ended: make(chan error, 1)}
	if err := os.WriteFile(filepath.Join(g.dir, "token"), []byte(jobToken), 0o600); err != nil {
		t.Fatal(err)
	}
	script := `echo $$ >pid.new; mv pid.new pid; until [ -e end ]; do sleep 0.02; done`
	g.cmd = exec.Command("daypass", append(append([]string{"exec"}, args...), "--", "sh", "-c", script)...)
	g.cmd.Dir = g.dir
	g.cmd.Env = append(os.Environ(), "DAYPASS_URL="+server.URL, "DAYPASS_TOKEN_FILE=token")
	if change != nil {
		change(g.cmd)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { g.ended <- g.cmd.Wait() }()
	t.Cleanup(func() {
		g.end()
		_ = g.cmd.Process.Kill()
	})
	g.until("the command runs", func() bool {
		pid, err := os.ReadFile(filepath.Join(g.dir, "pid"))
		g.command, _ = strconv.Atoi(strings.TrimSpace(string(pid)))
		return err == nil
	})
	return g
}

func (g *guarded) until(what string, so func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(overload); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: not within %v; the broker was asked:\n%s", what, overload, g.fake.log())
		}
	}
}

// end lets the command end.
func (g *guarded) end() {
	if err := os.WriteFile(filepath.Join(g.dir, "end"), nil, 0o600); err != nil {
		g.t.Error(err)
	}
}

// watchdog is the process that watches; 0: none does.
func (g *guarded) watchdog() int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		g.t.Fatal(err)
	}
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid …, and the name may hold anything.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		if string(fields[1]) == strconv.Itoa(g.cmd.Process.Pid) && bytes.HasSuffix(line, []byte("\x00"+commandWatchdog+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			return pid
		}
	}
	return 0
}

// alive says whether a process is there and has not ended.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return string(fields[0]) != "Z"
}

// ignores says whether a process ignores a signal.
func ignores(t *testing.T, pid int, s syscall.Signal) bool {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatalf("it has ended: %v", err)
	}
	_, mask, _ := strings.Cut(string(status), "SigIgn:\t")
	mask, _, _ = strings.Cut(mask, "\n")
	bits, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return bits&(1<<(s-1)) != 0
}

func (g *guarded) revocations(token string) int {
	return strings.Count(g.fake.log(), "POST "+api.PathSessionRevoke+" Bearer "+token)
}

func newGuardedFake(t *testing.T) *fakeBroker {
	t.Helper()
	log, err := newFakeLog()
	if err != nil {
		t.Fatal(err)
	}
	return &fakeBroker{auditLog: log}
}

// A killed exec: its credentials are taken back while the command, which nobody told,
// goes on; nothing that whoever started exec waits for is held open meanwhile.
func TestWatchdogGivesBack(t *testing.T) {
	t.Parallel()
	fake := newGuardedFake(t)
	asked, answer := make(chan struct{}, 9), make(chan struct{})
	fake.revoking = func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
		return false
	}
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close() //nolint:errcheck // it was read
	g := guard(t, fake, func(cmd *exec.Cmd) {
		cmd.Stdout, cmd.ExtraFiles = to, []*os.File{to} // as shells and test runners hand down files of their own
		cmd.Env = append(cmd.Env, "RUNNER_TRACKING_ID=x", "DAYPASS_JOB_TOKEN="+jobToken)
	}, "--grant", "payments/deploy-db")
	_ = to.Close()
	watchdog := g.watchdog()
	if watchdog == 0 {
		t.Fatal("nobody watches")
	}
	if session, err := syscall.Getpgid(watchdog); err != nil || session != watchdog {
		t.Errorf("it is of the process group %d, %v", session, err)
	}
	g.until("it has begun", func() bool { return ignores(t, watchdog, syscall.SIGTERM) })
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} { // it isn't turned away so
		if err := syscall.Kill(watchdog, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(overload):
		t.Fatalf("nothing is given back within %v", overload)
	}
	if !alive(g.command) || g.revocations(revocation) != 1 || g.revocations(sessionToken) != 0 {
		t.Errorf("the command lives: %v; asked:\n%s", alive(g.command), fake.log())
	}
	g.end()
	_ = from.SetReadDeadline(time.Now().Add(overload))
	if _, err := io.ReadAll(from); err != nil {
		t.Errorf("exec and its command have ended, and somebody holds their files open: %v", err)
	}
	if !alive(watchdog) {
		t.Error("the watchdog has ended before it was answered: the pipe shows nothing")
	}
	close(answer)
	g.until("the watchdog ends", func() bool { return !alive(watchdog) })
	if n := g.revocations(""); n != 1 {
		t.Errorf("given back %d times:\n%s", n, fake.log())
	}
}

// A broker that is away, or replaced by a newer one meanwhile, is asked again.
func TestWatchdogTriesAgain(t *testing.T) {
	t.Parallel()
	fake := newGuardedFake(t)
	var tries atomic.Int32
	fake.revoking = func(w http.ResponseWriter, _ *http.Request) bool {
		switch tries.Add(1) {
		case 1:
			panic(http.ErrAbortHandler) // the answer is lost
		case 2:
			refuse(w, api.Problem{Status: 401, Code: api.CodeInvalidToken, Reason: api.ReasonMalformed})
		case 3:
			refuse(w, api.Problem{Status: 503, Code: api.CodeUnavailable})
		default:
			return false
		}
		return true
	}
	g := guard(t, fake, nil, "--grant", "payments/deploy-db")
	watchdog := g.watchdog()
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.until("it is given back", func() bool { return tries.Load() == 4 && !alive(watchdog) })
	if n := g.revocations(revocation); n != 4 || watchdog == 0 {
		t.Errorf("watchdog %d, %d tries", watchdog, n)
	}
}

// A command that ends: exec gives back, and the watchdog has nothing to do.
func TestWatchdogEndsWithExec(t *testing.T) {
	t.Parallel()
	g := guard(t, newGuardedFake(t), nil, "--grant", "payments/deploy-db")
	watchdog := g.watchdog()
	if !alive(watchdog) {
		t.Fatal("nobody watches")
	}
	g.end()
	if err := <-g.ended; err != nil {
		t.Error(err)
	}
	g.until("the watchdog ends", func() bool { return !alive(watchdog) })
	if all, own := g.revocations(""), g.revocations(sessionToken); all != 1 || own != 1 {
		t.Errorf("given back %d times, %d by exec:\n%s", all, own, g.fake.log())
	}
}

// What exec could not give back, the watchdog still tries to.
func TestWatchdogGoesOn(t *testing.T) {
	t.Parallel()
	g := guard(t, newGuardedFake(t), nil, "--grant", "payments/stays")
	watchdog := g.watchdog()
	g.end()
	if err := <-g.ended; err != nil {
		t.Error(err)
	}
	g.until("the watchdog gives back", func() bool { return g.revocations(revocation) == 1 && !alive(watchdog) })
}

func TestNoWatchdog(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"it isn't wanted":               {"--no-watchdog", "--grant", "payments/deploy-db"},
		"a broker of before there were": {"--grant", "payments/old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, newGuardedFake(t), nil, args...)
			if pid := g.watchdog(); pid != 0 {
				t.Errorf("process %d watches", pid)
			}
			g.end()
			if err := <-g.ended; err != nil || g.revocations(sessionToken) != 1 {
				t.Errorf("%v\n%s", err, g.fake.log())
			}
		})
	}
}
