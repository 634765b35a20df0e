package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Fields of /proc/PID/stat (proc(5)), counted from the one after the name.
const (
	fieldParent = 1
	fieldUser   = 11 // utime; then stime, cutime, cstime
)

// tick is the unit of times in /proc: USER_HZ is 100 on every Linux.
const tick = 10 * time.Millisecond

// usage is what the kernel has counted for one process.
type usage struct {
	parent   int
	own      time.Duration // user and system
	children time.Duration // of children that have ended and were waited for
}

func readUsage(pid int) (usage, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return usage{}, err
	}
	// The name stands in brackets and may hold anything, brackets included.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < fieldUser+4 {
		return usage{}, errors.New("/proc/PID/stat has an unexpected form")
	}
	var numbers [5]int64
	for i, field := range []string{fields[fieldParent], fields[fieldUser], fields[fieldUser+1], fields[fieldUser+2], fields[fieldUser+3]} {
		if numbers[i], err = strconv.ParseInt(field, 10, 64); err != nil {
			return usage{}, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
		}
	}
	return usage{
		parent:   int(numbers[0]),
		own:      time.Duration(numbers[1]+numbers[2]) * tick,
		children: time.Duration(numbers[3]+numbers[4]) * tick,
	}, nil
}

func selfPID() int { return os.Getpid() }

// processTime reads the CPU time of one process.
func processTime(pid int) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		u, err := readUsage(pid)
		return u.own, err
	}
}

// familyTime is the CPU time of a process and of all its children, those that
// have ended included.
func familyTime(pid int) (time.Duration, error) {
	u, err := readUsage(pid)
	if err != nil {
		return 0, err
	}
	total := u.own + u.children
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if u, err := readUsage(child); err == nil && u.parent == pid { // one that has just ended is counted by its parent next time
			total += u.own
		}
	}
	return total, nil
}
