package main

import (
	"bytes"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen is a terminal with a program in it, as a person has one.
type screen struct {
	t     *testing.T
	keys  *os.File
	tty   *os.File
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	shown bytes.Buffer
}

// newScreen runs a command in a terminal of its own, beside a fake broker. Change
// may give it other streams.
func newScreen(t *testing.T, change func(*exec.Cmd), args ...string) *screen {
	t.Helper()
	log, err := newFakeLog()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer((&fakeBroker{auditLog: log}).routes())
	t.Cleanup(server.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(jobToken), 0o600); err != nil {
		t.Fatal(err)
	}
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := unix.IoctlGetTermios(master, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, keys: os.NewFile(uintptr(master), "keys"), ended: make(chan struct{})}
	if s.tty, err = openSlave(master, settings); err != nil {
		t.Fatal(err)
	}
	s.resize(41, 107)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Dir = t.TempDir()
	s.cmd.Env = append(os.Environ(), "DAYPASS_URL="+server.URL, "DAYPASS_TOKEN_FILE="+token, "DAYPASS_LOG=")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.tty, s.tty, s.tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if change != nil {
		change(s.cmd)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.read()
	t.Cleanup(func() {
		_ = unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL)
		<-s.ended
		_ = s.keys.Close()
		_ = s.tty.Close()
	})
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	return s
}

func (s *screen) read() {
	buf := make([]byte, 4<<10)
	for {
		n, err := s.keys.Read(buf)
		s.mu.Lock()
		s.shown.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// until waits for something to be so.
func (s *screen) until(what string, so func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within a minute; on the screen:\n%s", what, s.text())
		}
	}
}

func (s *screen) expect(text string) {
	s.t.Helper()
	s.until("showing "+text, func() bool { return strings.Contains(s.text(), text) })
}

func (s *screen) typed(keys string) {
	s.t.Helper()
	if _, err := s.keys.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) resize(rows, cols uint16) {
	s.t.Helper()
	if err := unix.IoctlSetWinsize(int(s.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		s.t.Fatal(err)
	}
}

// cooked says whether the terminal edits lines and echoes.
func (s *screen) cooked() bool {
	settings, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	const all = unix.ICANON | unix.ECHO | unix.ISIG
	return settings.Lflag&all == all && settings.Oflag&unix.OPOST != 0
}

// exits wants the program to end with a code, and the terminal as it was.
func (s *screen) exits(code int) {
	s.t.Helper()
	s.until("ending", func() bool {
		select {
		case <-s.ended:
			return true
		default:
			return false
		}
	})
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d; on the screen:\n%s", got, code, s.text())
	}
	if !s.cooked() {
		s.t.Error("the terminal wasn't given back as it was")
	}
	if strings.Contains(s.text(), "quotes") {
		s.t.Errorf("the password is on the screen:\n%s", s.text())
	}
}

func script(text string) []string {
	return []string{"daypass", "exec", "--grant", "payments/deploy-db", "--", "sh", "-c", text}
}

// The command has a terminal of the same size, on all three streams, and all that
// it prints there is masked, what it prints to /dev/tty too.
func TestExecInATerminal(t *testing.T) {
	s := newScreen(t, nil, script(`[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; stty size
		echo "1 $PGPASSWORD."; echo "2 $PGPASSWORD." >&2; echo "3 $PGPASSWORD." >/dev/tty
		trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.01; done`)...)
	s.expect("all three\r\n41 107\r\n1 [daypass:redacted].\r\n2 [daypass:redacted].\r\n3 [daypass:redacted].\r\nready\r\n")
	if s.cooked() {
		t.Error("the real terminal edits lines, and so does the command's")
	}
	s.resize(20, 33)
	s.expect("20 33\r\n")
	s.exits(7)
}

// A question without a line end shows at once; what is typed arrives, edited by the
// command's terminal, and isn't echoed where the command says so.
func TestExecAsks(t *testing.T) {
	s := newScreen(t, nil, script(`printf 'Name: '; read name; stty -echo; printf 'Password: '; read pw; stty echo
		printf '\nhello %s %s\n' "$name" "$pw"; [ "$pw" = "$PGPASSWORD" ] && echo same; cat; exit 3`)...)
	s.expect("Name: ")
	s.typed("ab\x7fc\r")
	s.expect("Password: ")
	s.typed(password + "\r")
	s.expect("Name: ab\b \bc\r\nPassword: \r\nhello ac [daypass:redacted]\r\nsame\r\n")
	s.typed("line\r\x04")
	s.expect("line\r\nline\r\n")
	s.exits(3)
}

// Keys become signals in the command's terminal; a signal from elsewhere is passed on.
func TestExecKeysAndSignals(t *testing.T) {
	const wait = `trap "echo got $1; exit 9" INT QUIT TERM; echo ready; while :; do sleep 0.01; done`
	t.Run("key", func(t *testing.T) {
		s := newScreen(t, nil, script(strings.ReplaceAll(wait, "$1", "key"))...)
		s.expect("ready")
		s.typed("\x03")
		s.expect("got key")
		s.exits(9)
	})
	t.Run("signal", func(t *testing.T) {
		s := newScreen(t, nil, script(strings.ReplaceAll(wait, "$1", "signal"))...)
		s.expect("ready")
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.expect("got signal")
		s.exits(9)
	})
	t.Run("a signal that it dies of", func(t *testing.T) {
		s := newScreen(t, nil, script(`echo ready; exec sleep 60`)...)
		s.expect("ready")
		_ = s.cmd.Process.Signal(syscall.SIGHUP)
		s.exits(exitSignal + int(syscall.SIGHUP))
	})
	t.Run("a key while standard input is elsewhere", func(t *testing.T) {
		in, keep, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer keep.Close() //nolint:errcheck // the test's own
		s := newScreen(t, func(c *exec.Cmd) { c.Stdin, c.SysProcAttr.Ctty = in, 1 },
			script(`trap "echo got it; exit 9" INT; [ -t 0 ] || [ ! -t 1 ] || echo ready; while :; do sleep 0.01; done`)...)
		s.expect("ready")
		s.typed("\x03")
		s.expect("got it")
		s.exits(9)
	})
}

// ^Z stops the job as in any shell, which gets a terminal that works, and fg goes on.
func TestExecStopsAndGoesOn(t *testing.T) {
	s := newScreen(t, nil, "sh", "-m", "-c", `daypass exec --grant payments/deploy-db -- sh -c 'echo ready; read a; echo "got $a $PGPASSWORD"; exit 5'
		echo "stopped $?"; stty -a | grep -q -w -e '-icanon' || echo works; read b; echo "shell has $b"; fg >/dev/null; echo "ended $?"`)
	s.expect("ready")
	s.typed("\x1a")
	s.expect("stopped 148\r\nworks\r\n")
	s.typed("one\r")
	s.expect("shell has one\r\n")
	s.until("being raw again", func() bool { return !s.cooked() })
	s.typed("two\r")
	s.expect("got two [daypass:redacted]\r\n")
	s.expect("ended 5")
	s.exits(0)
}

// Streams that go elsewhere stay apart from the terminal.
func TestExecKeepsStreamsApart(t *testing.T) {
	var errs lockedBuffer
	s := newScreen(t, func(c *exec.Cmd) { c.Stderr = &errs }, script(`[ -t 1 ] && [ ! -t 2 ] && echo apart; echo "2 $PGPASSWORD." >&2`)...)
	s.expect("apart")
	s.exits(0)
	if got := errs.String(); got != "2 [daypass:redacted].\n" {
		t.Errorf("on standard error: %q", got)
	}

	var out lockedBuffer
	s = newScreen(t, func(c *exec.Cmd) { c.Stdout = &out }, script(`[ ! -t 1 ] && [ -t 0 ] && echo "no terminal $PGPASSWORD"`)...)
	s.exits(0)
	if got := out.String(); got != "no terminal [daypass:redacted]\n" {
		t.Errorf("on standard output: %q", got)
	}

	s = newScreen(t, nil, "sh", "-c", `echo typed elsewhere | daypass exec --grant payments/deploy-db -- cat; daypass exec --no-pty --grant payments/deploy-db -- sh -c '[ -t 1 ] || echo pipe'`)
	s.expect("typed elsewhere\r\npipe\r\n")
	s.exits(0)
}

// Whatever goes wrong, the terminal is given back.
func TestExecGivesTheTerminalBack(t *testing.T) {
	s := newScreen(t, nil, "daypass", "exec", "--grant", "payments/deploy-db", "--", "/dev/null")
	s.exits(exitNotExecutable)
	s = newScreen(t, nil, script(`kill -9 $$`)...)
	s.exits(137)
	s = newScreen(t, nil, script(`(trap '' HUP; sleep 60 >/dev/null 2>&1 </dev/null) & exit 4`)...)
	s.exits(4)
	s = newScreen(t, nil, script(`i=0; while [ $i -lt 3000 ]; do echo "$i ----------------------------------------"; i=$((i+1)); done; stty raw -echo`)...)
	s.exits(0)
	s.expect("\r\n2999 ---") // nothing of the end is lost
}

// lockedBuffer is written to by os/exec while the test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
