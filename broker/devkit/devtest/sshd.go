//go:build unix

package devtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sshTimeout bounds one connection.
const sshTimeout = 90 * time.Second

// SSHD is OpenSSH's own server on a free port of loopback, which lets the current
// user in and nobody else. Each connection has an sshd of its own, as from inetd:
// so there is no port to guess, and each one reads its configuration anew.
type SSHD struct {
	// Dir holds its files, and is the place for a test's own.
	Dir string
	// HostKey is the line of its public key.
	HostKey string

	tb      testing.TB
	program string
	port    int
}

// NewSSHD starts a server that trusts nobody yet: see Configure.
func NewSSHD(tb testing.TB) *SSHD {
	tb.Helper()
	s := &SSHD{tb: tb, Dir: tb.TempDir(), program: findSSHD(tb)}
	s.HostKey = s.Keygen("host_key")
	if os.Getuid() == 0 {
		// A root's sshd wants it, and a machine on which none was ever started lacks it.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { //nolint:gosec // it holds nothing, and the unprivileged part of sshd enters it
			tb.Fatal(err)
		}
	}
	s.Configure()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		tb.Fatal("no TCP address")
	}
	s.port = address.Port
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			running.Go(func() { s.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		if err := listener.Close(); err != nil {
			tb.Error(err)
		}
		running.Wait()
	})
	return s
}

// Program finds one of OpenSSH's, or the test fails: without it nothing would be
// proved.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is missing: install the package openssh-client (hint: `make deps`)", name)
	}
	return path
}

func findSSHD(tb testing.TB) string {
	tb.Helper()
	found, err := exec.LookPath("sshd")
	places := []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/opt/homebrew/sbin/sshd"}
	if err == nil && filepath.IsAbs(found) { // sshd insists on its whole path
		places = append([]string{found}, places...)
	}
	for _, path := range places {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	tb.Fatal("sshd is missing: install the package openssh-server (hint: `make deps`)")
	return ""
}

// serve hands a connection to an sshd.
func (s *SSHD) serve(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // sshd has one of its own
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	socket, err := tcp.File()
	if err != nil {
		return
	}
	defer socket.Close() //nolint:errcheck // sshd has one of its own
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), sshTimeout)
	defer cancel()
	sshd := exec.CommandContext(ctx, s.program, "-i", "-f", s.Path("sshd_config"), "-E", s.Path("log")) //nolint:gosec // the arguments are this file's
	sshd.Stdin, sshd.Stdout = socket, socket
	_ = sshd.Run() // its log says what happened
}

// Configure replaces what stands in its configuration besides what it needs to run.
func (s *SSHD) Configure(lines ...string) {
	s.tb.Helper()
	s.Write("sshd_config", strings.Join(append([]string{
		"HostKey " + s.Path("host_key"), "PidFile none", "UsePAM no", "StrictModes no", "LogLevel VERBOSE",
		"AuthorizedKeysFile none", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
	}, lines...), "\n")+"\n")
}

// Path is the path of one of its files.
func (s *SSHD) Path(name string) string { return filepath.Join(s.Dir, name) }

// Write writes one of its files, for the user alone, and returns its path.
func (s *SSHD) Write(name, text string) string {
	s.tb.Helper()
	if err := os.WriteFile(s.Path(name+".new"), []byte(text), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	if err := os.Rename(s.Path(name+".new"), s.Path(name)); err != nil {
		s.tb.Fatal(err)
	}
	return s.Path(name)
}

// Keygen makes a key pair with ssh-keygen, and returns the line of its public key.
func (s *SSHD) Keygen(name string) string {
	s.tb.Helper()
	out, err := exec.CommandContext(s.tb.Context(), Program(s.tb, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", s.Path(name)).CombinedOutput() //nolint:gosec // the arguments are a test's
	if err != nil {
		s.tb.Fatalf("%v\n%s", err, out)
	}
	line, err := os.ReadFile(s.Path(name + ".pub"))
	if err != nil {
		s.tb.Fatal(err)
	}
	return string(line)
}

// Log is what the server said so far.
func (s *SSHD) Log() string {
	text, err := os.ReadFile(s.Path("log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.tb.Error(err)
	}
	return string(text)
}

// SSH runs OpenSSH's client against the server, with none of the user's own
// settings. The last arguments are the command; options come before, each as
// `-oName=value`. A client that got no session gives an error.
func (s *SSHD) SSH(options []string, command ...string) (string, error) {
	s.tb.Helper()
	me, err := user.Current()
	if err != nil {
		s.tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.tb.Context(), sshTimeout)
	defer cancel()
	args := append([]string{
		"-F", "/dev/null", "-p", strconv.Itoa(s.port), "-l", me.Username,
		"-oBatchMode=yes", "-oIdentitiesOnly=yes", "-oIdentityAgent=none", "-oGlobalKnownHostsFile=/dev/null", "-oConnectTimeout=60",
	}, options...)
	client := exec.CommandContext(ctx, Program(s.tb, "ssh"), append(append(args, "127.0.0.1"), command...)...) //nolint:gosec // the arguments are a test's
	out, err := client.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ssh: %w: %s", err, out)
	}
	return string(out), err
}

// Known is the options of a client that knows the server by its key.
func (s *SSHD) Known() []string {
	s.tb.Helper()
	known := s.Write("known_hosts", "daypass-test "+s.HostKey)
	return []string{"-oUserKnownHostsFile=" + known, "-oStrictHostKeyChecking=yes", "-oHostKeyAlias=daypass-test"}
}
