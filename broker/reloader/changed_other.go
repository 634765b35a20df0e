//go:build !linux

package reloader

import (
	"io/fs"
	"time"
)

// changedAt isn't known here: it counts as just now.
func changedAt(_ fs.FileInfo, now time.Time) time.Time { return now }
