package isolated

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

// kill ends the child at once, and waits until the store has noticed.
func kill(t *testing.T, s *Store) {
	t.Helper()
	pid := s.PID()
	if pid == 0 {
		t.Fatal("there is no child")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child's end is noticed", func() bool { return s.PID() != pid })
}

// faulty opens a store whose sealing key does what its associated data says.
func faulty(t *testing.T, change func(*Config)) (*Store, keys.Sealer, *faultyChild) {
	t.Helper()
	f := &faultyChild{dir: t.TempDir()}
	var config Config
	config, f.clock, f.log = hosted(t, "faulty", f.dir)
	if change != nil {
		change(&config)
	}
	s := openTest(t, config)
	if _, err := s.MakeSealer(t.Context(), "faulty"); err != nil {
		t.Fatal(err)
	}
	sealer, err := s.OpenSealer(t.Context(), "faulty")
	if err != nil {
		t.Fatal(err)
	}
	return s, sealer, f
}

type faultyChild struct {
	dir   string
	clock *clock
	log   *logged
}

// TestKilledWhileSigning: of a hundred that sign without pause, those under way
// fail at once as unavailable, and all of them go on with the same key.
func TestKilledWhileSigning(t *testing.T) {
	config, _, log := hosted(t, "softhsm", t.TempDir())
	s := openTest(t, config)
	signer, err := s.MakeSigner(t.Context(), keys.Pair{Label: "killed-" + rand.Text()[:8]})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("message"))
	var before, after, failed atomic.Int64
	killed := make(chan struct{})
	var signing sync.WaitGroup
	for range 100 {
		signing.Go(func() {
			for {
				_, err := signer.SignContext(t.Context(), sum[:], crypto.SHA256)
				gone := false
				select {
				case <-killed:
					gone = true
				default:
				}
				switch {
				case err != nil && !errors.Is(err, ErrUnavailable):
					t.Errorf("it failed otherwise: %v", err)
					return
				case err != nil:
					failed.Add(1)
				case !gone:
					before.Add(1)
				default:
					after.Add(1)
					return
				}
			}
		})
	}
	eventually(t, "all sign", func() bool { return before.Load() > 200 })
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another child", func() bool { next := s.PID(); return next != 0 && next != pid })
	close(killed)
	signing.Wait()
	if failed.Load() == 0 || after.Load() != 100 {
		t.Errorf("%d failed, %d signed after it", failed.Load(), after.Load())
	}
	if err := keys.SelfTest(signer); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), `"state":"signal: killed"`) {
		t.Errorf("the log doesn't say how it ended:\n%s", log)
	}
}

// TestCrash: a fault inside the library ends the child alone, and says so.
func TestCrash(t *testing.T) {
	s, sealer, f := faulty(t, nil)
	sealed, err := sealer.Seal(t.Context(), []byte("value"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealer.Seal(t.Context(), nil, []byte("crash")); !errors.Is(err, issuers.ErrUnavailable) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("crashed: %v", err)
	}
	// The same handle opens what was sealed before, through another child.
	if value, err := sealer.Open(t.Context(), sealed, []byte("place")); err != nil || string(value) != "value" {
		t.Errorf("after it: %q, %v", value, err)
	}
	if n := noted(t, f.dir, "start"); n != 2 || s.PID() == 0 {
		t.Errorf("%d children were started", n)
	}
	eventually(t, "the log says how it ended", func() bool { return strings.Contains(f.log.String(), "SIGSEGV") })
	if strings.Contains(f.log.String(), testPIN) {
		t.Errorf("the PIN is in the log:\n%s", f.log)
	}
}

// TestCrashLoop: a module that crashes at each call is started at growing
// intervals, up to half a minute, and calls in between fail without a start.
func TestCrashLoop(t *testing.T) {
	_, sealer, f := faulty(t, nil)
	crash := func() error {
		_, err := sealer.Seal(t.Context(), nil, []byte("crash"))
		if !errors.Is(err, ErrUnavailable) {
			t.Fatalf("it didn't crash: %v", err)
		}
		return err
	}
	for range 3 {
		_ = crash() // the first, the second at once, and the answer that there is a pause
	}
	if n := noted(t, f.dir, "start"); n != 2 {
		t.Fatalf("%d children before the first pause", n)
	}
	started := 2
	for pause := firstPause; pause < 3*longestPause; pause *= 2 {
		wait := min(pause, longestPause)
		f.clock.advance(wait - time.Millisecond)
		for range 50 {
			if err := crash(); !strings.Contains(err.Error(), "it is started again in 1ms") {
				t.Fatalf("after %s: %v", wait, err)
			}
		}
		if n := noted(t, f.dir, "start"); n != started {
			t.Fatalf("%d children instead of %d: the pause was cut", n, started)
		}
		f.clock.advance(time.Millisecond)
		_ = crash()
		if started++; noted(t, f.dir, "start") != started {
			t.Fatalf("%d children instead of %d after a pause of %s", noted(t, f.dir, "start"), started, wait)
		}
	}
	// One that lives for a while is a good one: the next crash costs no pause.
	f.clock.advance(longestPause)
	if _, err := sealer.Seal(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(calm)
	_ = crash()
	if _, err := sealer.Seal(t.Context(), nil, nil); err != nil {
		t.Errorf("after a calm minute: %v", err)
	}
}

// TestDiesAtStart: a child that can't even start is an error that says so, and
// isn't tried without end.
func TestDiesAtStart(t *testing.T) {
	dir := t.TempDir()
	config, _, log := hosted(t, "dies", dir)
	if _, err := Open(t.Context(), config); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), softHSM) {
		t.Errorf("opened: %v", err)
	}
	if n := noted(t, dir, "start"); n != 1 {
		t.Errorf("%d children", n)
	}
	eventually(t, "its words are in the log", func() bool { return strings.Contains(log.String(), "no such luck") })
	config.Command = nil
	if _, err := Open(t.Context(), config); err == nil {
		t.Error("opened without a command")
	}
}

// TestHang: a caller waits no longer than its context, and a child that does not
// answer is killed, with all that waits for it.
func TestHang(t *testing.T) {
	s, sealer, f := faulty(t, func(c *Config) { c.HangAfter = 3 * time.Second })
	pid := s.PID()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sealer.Seal(ctx, nil, []byte("hang")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's end: %v", err)
	}
	if s.PID() != pid {
		t.Error("a caller's own end has cost the child")
	}
	if _, err := sealer.Seal(t.Context(), nil, nil); err != nil {
		t.Errorf("beside the call that hangs: %v", err)
	}
	if _, err := sealer.Seal(t.Context(), nil, []byte("hang")); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), errHangs.Error()) {
		t.Errorf("it hangs: %v", err)
	}
	if _, err := sealer.Seal(t.Context(), nil, nil); err != nil || s.PID() == pid {
		t.Errorf("after it: %v", err)
	}
	if n := noted(t, f.dir, "start"); n != 2 {
		t.Errorf("%d children", n)
	}
}

// TestStopped: a process that stands still as a whole, its pipe full, keeps nobody
// longer than their context either.
func TestStopped(t *testing.T) {
	s, sealer, _ := faulty(t, func(c *Config) { c.HangAfter = 5 * time.Second })
	if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	for range 2 * maxInFlight { // of 8 KiB each: more than the pipe holds, and than there are slots
		waiting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			begun := time.Now()
			if _, err := sealer.Seal(ctx, make([]byte, 8<<10), nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 4*time.Second {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
	}
	waiting.Wait()
	if _, err := sealer.Seal(t.Context(), nil, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("it stands still: %v", err)
	}
	if _, err := sealer.Seal(t.Context(), nil, nil); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// TestDeadlineCrosses: what the caller has left is what the child has.
func TestDeadlineCrosses(t *testing.T) {
	_, sealer, f := faulty(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := sealer.Seal(ctx, nil, []byte("until asked")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	// All slots are free again: none of them waits for a call that nobody wants.
	for range maxInFlight {
		if _, err := sealer.Seal(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := noted(t, f.dir, "start"); n != 1 {
		t.Errorf("%d children", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sealer.Seal(ended, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestCrowd: no more calls are under way than the child takes; the rest waits.
func TestCrowd(t *testing.T) {
	_, sealer, f := faulty(t, nil)
	var crowd sync.WaitGroup
	for range maxInFlight + 20 {
		crowd.Go(func() {
			if _, err := sealer.Seal(t.Context(), nil, []byte("slow")); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "as many as there may be are under way", func() bool { return noted(t, f.dir, "slow") == maxInFlight })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := sealer.Seal(ctx, nil, []byte("one more")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more: %v", err)
	}
	if noted(t, f.dir, "slow") != maxInFlight || noted(t, f.dir, "one more") != 0 {
		t.Error("more than that were sent")
	}
	if err := os.WriteFile(filepath.Join(f.dir, "go on"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	crowd.Wait()
}

// TestRefusedPIN: a PIN that was refused is sent to no other child, whether it was
// refused to the first, to one started later, or in the middle of its life.
func TestRefusedPIN(t *testing.T) {
	setPIN := func(t *testing.T, dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("another-pin"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(t *testing.T, sealer keys.Sealer, dir string, starts int) {
		t.Helper()
		for range 5 {
			if _, err := sealer.Seal(t.Context(), nil, nil); !errors.Is(err, pkcs11.ErrPIN) {
				t.Errorf("%v", err)
			}
		}
		if n := noted(t, dir, "start"); n != starts {
			t.Errorf("the PIN was sent %d times instead of %d", n, starts)
		}
	}
	t.Run("first", func(t *testing.T) {
		dir := t.TempDir()
		setPIN(t, dir)
		config, _, _ := hosted(t, "software", dir)
		if _, err := Open(t.Context(), config); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("opened: %v", err)
		}
		if n := noted(t, dir, "start"); n != 1 {
			t.Errorf("the PIN was sent %d times", n)
		}
	})
	t.Run("later", func(t *testing.T) {
		s, sealer, f := faulty(t, nil)
		setPIN(t, f.dir)
		kill(t, s)
		refused(t, sealer, f.dir, 2)
		f.clock.advance(time.Hour)
		refused(t, sealer, f.dir, 2)
	})
	t.Run("in between", func(t *testing.T) {
		s, sealer, f := faulty(t, nil)
		if _, err := sealer.Seal(t.Context(), nil, []byte("wrong pin")); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("%v", err)
		}
		kill(t, s)
		f.clock.advance(time.Hour)
		refused(t, sealer, f.dir, 1)
	})
}

// TestOtherKey: a child that finds another key behind a label doesn't use it.
func TestOtherKey(t *testing.T) {
	s, sealer, f := faulty(t, nil)
	signer, err := s.MakeSigner(t.Context(), keys.Pair{Label: "signing"})
	if err != nil {
		t.Fatal(err)
	}
	kill(t, s)
	if err := errors.Join(os.RemoveAll(filepath.Join(f.dir, "keys"))); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.SignContext(t.Context(), make([]byte, 32), crypto.SHA256); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("signed without the key: %v", err)
	}
	again, err := s.MakeSigner(t.Context(), keys.Pair{Label: "signing"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.MakeSealer(t.Context(), "faulty"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := signer.SignContext(t.Context(), make([]byte, 32), crypto.SHA256); !errors.Is(err, ErrOtherKey) || !strings.Contains(err.Error(), again.KeyID()) {
			t.Errorf("signed with another key: %v", err)
		}
		if _, err := sealer.Seal(t.Context(), nil, nil); !errors.Is(err, ErrOtherKey) {
			t.Errorf("sealed with another key: %v", err)
		}
	}
	if err := keys.SelfTest(again); err != nil {
		t.Errorf("the new key: %v", err)
	}
}

// TestLiars: an answer that doesn't fit is taken by nobody, and ends the child.
func TestLiars(t *testing.T) {
	for _, behaviour := range []string{"liar-number", "liar-verb", "liar-key", "liar-label", "huge", "garbage", "cut"} {
		t.Run(behaviour, func(t *testing.T) {
			config, _, log := hosted(t, behaviour, t.TempDir())
			s := openTest(t, config)
			sealer, err := s.MakeSealer(t.Context(), "sealing")
			if err != nil {
				t.Fatal(err)
			}
			pid := s.PID()
			sealed, err := sealer.Seal(t.Context(), []byte("value"), nil)
			if !errors.Is(err, ErrUnavailable) || sealed != nil {
				t.Errorf("it was taken: %x, %v", sealed, err)
			}
			if s.PID() == pid {
				t.Error("the child lives on")
			}
			if !errors.Is(err, errFrame) && !errors.Is(err, errAnswer) {
				t.Errorf("%v\n%s", err, log)
			}
		})
	}
	t.Run("twice", func(t *testing.T) {
		config, _, _ := hosted(t, "twice", t.TempDir())
		s := openTest(t, config)
		sealer, err := s.MakeSealer(t.Context(), "sealing")
		if err != nil {
			t.Fatal(err)
		}
		pid := s.PID()
		if _, err := sealer.Seal(t.Context(), nil, nil); err != nil {
			t.Errorf("the first of two answers is the one: %v", err)
		}
		eventually(t, "the second ends the child", func() bool { return s.PID() != pid })
	})
}

// TestLongErrors are cut, and a value that is too long is an error of its call
// alone.
func TestLongErrors(t *testing.T) {
	s, sealer, _ := faulty(t, nil)
	pid := s.PID()
	if _, err := sealer.Seal(t.Context(), nil, []byte("fail")); err == nil || !strings.Contains(err.Error(), "CKR_DEVICE_ERROR") || len(err.Error()) > maxText+200 {
		t.Errorf("%v", err)
	}
	if _, err := sealer.Seal(t.Context(), nil, []byte("long")); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("%v", err)
	}
	if s.PID() != pid {
		t.Error("they have cost the child")
	}
}

// TestPrints: what a module prints spoils no message, and is in the log, bounded,
// without the PIN.
func TestPrints(t *testing.T) {
	config, _, log := hosted(t, "prints", t.TempDir())
	s := openTest(t, config)
	if _, err := s.MakeSealer(t.Context(), "sealing"); err != nil {
		t.Error(err)
	}
	eventually(t, "it is in the log", func() bool { return strings.Contains(log.String(), "prints too much") })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	text := log.String()
	if strings.Contains(text, testPIN) || !strings.Contains(text, "C_Login(CKU_USER, [redacted])") {
		t.Errorf("the PIN:\n%s", text)
	}
	if n := strings.Count(text, "\n"); n > maxLines+5 || strings.Contains(text, strings.Repeat("x", maxLine+1)) {
		t.Errorf("%d lines:\n%s", n, text)
	}
}

// TestClose: what is under way is answered, what comes later isn't, and the
// process is gone.
func TestClose(t *testing.T) {
	s, sealer, f := faulty(t, nil)
	pid := s.PID()
	answered := make(chan error, 1)
	go func() {
		_, err := sealer.Seal(t.Context(), nil, []byte("slow"))
		answered <- err
	}()
	eventually(t, "it is under way", func() bool { return noted(t, f.dir, "slow") == 1 })
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	eventually(t, "it is closed for others", func() bool {
		_, err := sealer.Seal(t.Context(), nil, nil)
		return errors.Is(err, ErrClosed)
	})
	if err := os.WriteFile(filepath.Join(f.dir, "go on"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-answered, <-closed, s.Close()); err != nil {
		t.Error(err)
	}
	if alive(pid) {
		t.Error("the process lives on")
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, sealer, f.log); strings.Contains(text, testPIN) || strings.Contains(text, "is gone") {
		t.Errorf("it prints %s", text)
	}
}
