package policies

import (
	"context"
	"time"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// tester is what testing.TB and rapid.T have in common, as far as loading needs it.
type tester interface {
	Helper()
	Context() context.Context
}
