package isolated

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

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
	outside, err := openTest(b, config).OpenSigner(b.Context(), pair)
	if err != nil {
		b.Fatal(err)
	}
	for _, callers := range []int{1, 4, 16} {
		for name, signer := range map[string]keys.Signer{"direct": inside, "isolated": outside} {
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) { signBy(b, signer, callers) })
		}
	}
}

func signBy(b *testing.B, signer keys.Signer, callers int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	digest := make([]byte, 32)
	var signing sync.WaitGroup
	b.ResetTimer()
	for range callers {
		signing.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := signer.SignContext(context.Background(), digest, crypto.SHA256); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	signing.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}
