package chaos_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/e2e/chaos"
)

func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	t.Parallel()
	of := func(seed uint64) chaos.Schedule {
		return chaos.Plan(chaos.Setup{Seed: seed, Length: time.Minute, Brokers: 3, Kinds: chaos.Kinds()})
	}
	for seed := range uint64(200) {
		plan := of(seed)
		if !slices.Equal(plan, of(seed)) || plan.String() == "" {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		seen := map[chaos.Kind]int{}
		for i, f := range plan {
			seen[f.Kind]++
			if i > 0 && f.At < plan[i-1].At || f.For <= 0 || f.Broker < 0 || f.Broker > 2 {
				t.Errorf("seed %d: %s", seed, f)
			}
		}
		if len(seen) != len(chaos.Kinds()) {
			t.Errorf("seed %d: %d kinds of %d", seed, len(seen), len(chaos.Kinds()))
		}
	}
	if slices.Equal(of(1), of(2)) {
		t.Error("two seeds give one schedule")
	}
}

// echo says after each line what a Postgres server says when it has committed.
func echo(t *testing.T) (address string, lines <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	got := make(chan string, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() //nolint:errcheck // the test is over
				for scanner := bufio.NewScanner(conn); scanner.Scan(); {
					got <- scanner.Text()
					if _, err := io.WriteString(conn, "done Z\x00\x00\x00\x05I"); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String(), got
}

const answer = "done Z\x00\x00\x00\x05I"

// ask sends a line and reads the answer; the error is of the connection.
func ask(conn net.Conn, patience time.Duration) error {
	if _, err := io.WriteString(conn, "commit\n"); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	read := make([]byte, len(answer))
	_, err := io.ReadFull(conn, read)
	return err
}

func TestProxy(t *testing.T) {
	t.Parallel()
	address, lines := echo(t)
	proxy, err := chaos.NewProxy(t.Context(), func() string { return address })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	}()
	dial := func() net.Conn {
		conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: proxy.Port()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	const long, short = time.Minute, 200 * time.Millisecond
	first := dial()
	if err := ask(first, long); err != nil {
		t.Fatalf("passing: %v", err)
	}
	<-lines
	proxy.Set(chaos.LoseAnswers, 0)
	for range 2 {
		if err := ask(first, long); err != nil {
			t.Fatalf("an answer that is not to be lost: %v", err)
		}
		<-lines
	}
	if err := ask(first, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an answer that is to be lost: %v", err)
	}
	select {
	case <-lines: // it was done all the same
	case <-time.After(long):
		t.Error("the server heard nothing")
	}
	proxy.Set(chaos.Refuse, 0)
	if err := ask(dial(), long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("refused: %v", err)
	}
	proxy.Set(chaos.Silent, 0)
	silent := dial()
	if err := ask(silent, short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silent: %v", err)
	}
	proxy.Set(chaos.Slow, short)
	began := time.Now()
	if err := ask(dial(), long); err != nil || time.Since(began) < short {
		t.Errorf("slow: %v after %s", err, time.Since(began))
	}
	proxy.Set(chaos.Pass, 0)
	last := dial()
	if err := ask(last, long); err != nil {
		t.Errorf("passing again: %v", err)
	}
	proxy.Cut()
	if err := ask(last, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cut: %v", err)
	}
}

// TestDisk fills one for real where the machine allows it.
func TestDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk, err := chaos.NewDisk(dir, 1<<20)
	if err != nil {
		if !errors.Is(err, os.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
		return // not everybody may mount
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	write := func(name string) error { return os.WriteFile(filepath.Join(dir, name), make([]byte, 64<<10), 0o600) }
	if err := write("before"); err != nil {
		t.Fatal(err)
	}
	if err := disk.Fill(); err != nil {
		t.Fatal(err)
	}
	if err := write("full"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full disk: %v", err)
	}
	if err := disk.Free(); err != nil {
		t.Fatal(err)
	}
	if err := write("after"); err != nil {
		t.Errorf("writing to a disk that has room again: %v", err)
	}
}
