package reloader

import (
	"io/fs"
	"syscall"
	"time"
)

// changedAt is when a file's content, name or mode last changed, by the kernel's word.
func changedAt(info fs.FileInfo, now time.Time) time.Time {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(stat.Ctim.Unix())
	}
	return now
}
