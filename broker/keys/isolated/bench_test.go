package isolated

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keys"
)

// BenchmarkSign compares signatures through a child with those of the same token in
// this process, by as many callers: what isolation costs is the ratio of both.
func BenchmarkSign(b *testing.B) {
	config, _, _ := hosted(b, "softhsm", b.TempDir())
	direct, closer, err := openSoftHSM(b.Context(), &config.Hello)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := closer.Close(); err != nil && !errors.Is(err, io.EOF) {
			b.Error(err)
		}
	})
	pair := keys.Pair{Label: "bench-" + rand.Text()[:8]}
	inside, err := direct.MakeSigner(b.Context(), pair)
	if err != nil {
		b.Fatal(err)
	}
	store := openTest(b, config)
	outside, err := store.OpenSigner(b.Context(), pair)
	if err != nil {
		b.Fatal(err)
	}
	for _, callers := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			var within, without, withinCPU, withoutCPU time.Duration
			for b.Loop() {
				// By turns, and in short ones: what else the machine does meets both.
				begun := cpu(b, 0)
				without += signBy(b, inside, callers)
				between, child := cpu(b, 0), cpu(b, store.PID())
				within += signBy(b, outside, callers)
				withoutCPU += between - begun
				withinCPU += cpu(b, 0) - between + cpu(b, store.PID()) - child
			}
			all := float64(b.N * slice)
			b.ReportMetric(all/without.Seconds(), "direct/s")
			b.ReportMetric(all/within.Seconds(), "isolated/s")
			b.ReportMetric(without.Seconds()/within.Seconds(), "ratio")
			b.ReportMetric(float64(withoutCPU.Microseconds())/all, "direct-CPU-µs")
			b.ReportMetric(float64(withinCPU.Microseconds())/all, "isolated-CPU-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

const slice = 320 // signatures of a turn

// signBy signs by as many callers, and tells how long it took.
func signBy(b *testing.B, signer keys.Signer, callers int) time.Duration {
	digest := make([]byte, 32)
	begun := time.Now()
	var signing sync.WaitGroup
	for range callers {
		signing.Go(func() {
			for range slice / callers {
				if _, err := signer.SignContext(b.Context(), digest, crypto.SHA256); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	signing.Wait()
	return time.Since(begun)
}

// cpu is what a process has used, ours for 0. The kernel of Linux tells it of others.
func cpu(b *testing.B, pid int) time.Duration {
	if pid == 0 {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			b.Fatal(err)
		}
		return time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		b.Fatal(err)
	}
	var sum time.Duration
	for _, thread := range threads {
		var ran int64
		if text, err := os.ReadFile(thread); err == nil {
			_, _ = fmt.Sscan(string(text), &ran) // a thread that has just ended counts nothing
		}
		sum += time.Duration(ran)
	}
	return sum
}
