package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Disk is a file system of its own, in memory, that can be full for real. Only root
// can have one.
type Disk struct {
	dir  string
	size int64
}

// diskName is what a Disk's mount is called, and the process whose it is.
const diskName = "daypass-chaos-"

// NewDisk mounts one over a folder, until Close.
func NewDisk(dir string, size int64) (*Disk, error) {
	sweepDisks()
	d := &Disk{dir: dir, size: size}
	if err := unix.Mount(diskName+strconv.Itoa(os.Getpid()), dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size="+strconv.FormatInt(size, 10)); err != nil {
		return nil, fmt.Errorf("mounting a disk on %s: %w", dir, err)
	}
	return d, nil
}

// Fill leaves no room: the disk is made as small as what is on it.
func (d *Disk) Fill() error {
	var err error
	for range 100 { // it may grow while it is measured
		var now unix.Statfs_t
		if err = unix.Statfs(d.dir, &now); err != nil {
			return fmt.Errorf("measuring the disk on %s: %w", d.dir, err)
		}
		used := int64(now.Blocks-now.Bfree) * now.Bsize //nolint:gosec // bounded by d.size
		if err = d.resize(used); err == nil || !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return err
}

// Free gives it its room again.
func (d *Disk) Free() error { return d.resize(d.size) }

func (d *Disk) resize(size int64) error {
	if err := unix.Mount("", d.dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, "size="+strconv.FormatInt(size, 10)); err != nil {
		return fmt.Errorf("changing the size of the disk on %s to %d bytes: %w", d.dir, size, err)
	}
	return nil
}

// Close takes it away, with all that is on it, whoever still uses it.
func (d *Disk) Close() error {
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the disk on %s: %w", d.dir, err)
	}
	return nil
}

// sweepDisks takes away what processes left that were killed.
func sweepDisks() {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return
	}
	defer mounts.Close() //nolint:errcheck // it was read from
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		number, ours := strings.CutPrefix(name, diskName)
		pid, err := strconv.Atoi(number)
		if !ours || err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		dir, _, _ := strings.Cut(rest, " ")
		_ = unix.Unmount(dir, unix.MNT_DETACH) // best effort: it is memory
	}
}
