package isolated

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

// alive says whether there is such a process, and it is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) && exists("/proc/self/stat") {
		return false
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(after, []byte("Z"))
}

// beParent opens a store, tells the process of its child, and waits to be killed.
func beParent(dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s, err := Open(context.Background(), Config{
		Command: func() *exec.Cmd {
			return &exec.Cmd{Path: program, Args: []string{"host"}, Env: []string{hostVariable + "=software", dirVariable + "=" + dir}}
		},
		Hello:  Hello{PIN: issuers.NewSecret(testPIN)},
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, s.PID()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestParentDies: a child doesn't outlive the broker, however that ends; where the
// kernel helps, not even one that stands still.
func TestParentDies(t *testing.T) {
	for name, still := range map[string]bool{"runs": false, "stands still": true} {
		t.Run(name, func(t *testing.T) {
			if still && !exists("/proc/self/stat") {
				t.Skip("other systems have no parent-death signal")
			}
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			parent := exec.CommandContext(t.Context(), program)
			parent.Env = []string{hostVariable + "=parent", dirVariable + "=" + t.TempDir()}
			if _, err := parent.StdinPipe(); err != nil {
				t.Fatal(err)
			}
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			pid, parseErr := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || parseErr != nil || !alive(pid) {
				t.Fatalf("the parent said %q: %v", line, err)
			}
			if still {
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			if err := parent.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = parent.Wait() // it was killed
			eventually(t, "the child has ended too", func() bool { return !alive(pid) })
		})
	}
}

// TestServeEndsWithItsPipe, wherever there is no signal for it; what is under way
// ends before.
func TestServeEndsWithItsPipe(t *testing.T) {
	dir := t.TempDir()
	reader, requests := io.Pipe()
	answers, writer := io.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), reader, writer, openSoftware(dir, nil)) }()
	h := Hello{PIN: issuers.NewSecret(testPIN)}
	frames := newFrameReader(answers)
	for number, r := range []*request{
		{verb: verbHello, data: must(encodeHello(&h))},
		{verb: verbMakeSealer, key: keyRef{label: "sealing"}},
	} {
		r.number = uint64(number)
		if _, err := requests.Write(must(r.encode())); err != nil {
			t.Fatal(err)
		}
		frame, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		a, err := decodeAnswer(frame)
		if err != nil || a.err() != nil || a.number != r.number {
			t.Fatalf("answered %+v, %v", a, err)
		}
	}
	if err := requests.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// TestServeRefuses what isn't a broker of the same version.
func TestServeRefuses(t *testing.T) {
	other := must((&request{verb: verbHello, data: []byte(`{"Version":2,"PIN":"` + testPIN + `"}`)}).encode())
	for name, sent := range map[string][]byte{
		"nothing":         nil,
		"garbage":         []byte("GET / HTTP/1.1\r\n\r\n"),
		"no hello":        must((&request{verb: verbList}).encode()),
		"no JSON":         must((&request{verb: verbHello, data: []byte(testPIN)}).encode()),
		"another version": other,
	} {
		opened := false
		err := Serve(t.Context(), bytes.NewReader(sent), io.Discard, func(context.Context, *Hello) (keys.Store, io.Closer, error) {
			opened = true
			return nil, nil, errors.New("opened")
		})
		if err == nil || opened || strings.Contains(err.Error(), testPIN) {
			t.Errorf("%s: opened %v, %v", name, opened, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	all := []string{"PATH=/bin", "SOFTHSM2_CONF=/etc/softhsm2.conf", "DAYPASS_HSM_PIN=1234", "PGPASSWORD=x", "VENDOR_CONF=/etc/vendor", "VENDOR_CONF2=y", "LC_ALL=C=D"}
	if got := strings.Join(Environment(all, "VENDOR_CONF"), " "); got != "PATH=/bin SOFTHSM2_CONF=/etc/softhsm2.conf VENDOR_CONF=/etc/vendor LC_ALL=C=D" {
		t.Errorf("kept %s", got)
	}
}

// TestPipes: a process that nobody has started for it holds no module.
func TestPipes(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = []string{hostVariable + "=softhsm"}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "was not started to hold") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestHello: all that says which token to open arrives, the PIN too.
func TestHello(t *testing.T) {
	sent := Hello{Module: "/m", TokenLabel: "t", PIN: issuers.NewSecret(testPIN), MaxSessions: 3}
	got, err := decodeHello(must(encodeHello(&sent)))
	if err != nil || got.PIN.Reveal() != testPIN || got.Module != "/m" || got.TokenLabel != "t" || got.MaxSessions != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}
