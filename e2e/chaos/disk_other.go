//go:build !linux

package chaos

import (
	"errors"
	"fmt"
)

// Disk is a file system of its own that can be full for real; only Linux has one.
type Disk struct{}

// NewDisk can't make one here.
func NewDisk(string, int64) (*Disk, error) {
	return nil, fmt.Errorf("a disk that can be filled: %w", errors.ErrUnsupported)
}

// Fill does nothing.
func (*Disk) Fill() error { return nil }

// Free does nothing.
func (*Disk) Free() error { return nil }

// Close does nothing.
func (*Disk) Close() error { return nil }
