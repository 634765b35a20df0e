//go:build packed

package main

import (
	"compress/gzip"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// whole is this program with nothing left out, packed: `daypass policy` becomes it.
//
// Policies need CEL, CEL needs protobuf, and both prepare themselves whenever a
// program starts that they are part of, whatever it is asked to do; that takes as
// long as all else that `daypass exec` does. So a release is built twice (make
// build): whole, and with the tag "packed", without those commands and with the
// other inside. It stays one file, and does the same.
//
//go:embed whole.gz
var whole string

// policyCommand is the whole program's.
func (p *program) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: policyShort, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error { return becomeWhole() },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			_ = becomeWhole() // whoever presses Tab wants no error
			return nil, cobra.ShellCompDirectiveError
		},
	}
	cmd.SetHelpFunc(func(*cobra.Command, []string) {
		if err := becomeWhole(); err != nil {
			p.say("%v", err)
		}
	})
	return cmd
}

// becomeWhole has the whole program take this one's place, with the same arguments.
// It lies in memory alone, where nobody can change it; it returns only with an error.
func becomeWhole() error {
	file, err := wholeFile()
	if err == nil {
		err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.Args, os.Environ()) //nolint:gosec // it is what was just unpacked
		_ = file.Close()
	}
	return fmt.Errorf("starting the part of this program that reads policies: %w (hint: one that is built by `go install ./cmd/daypass` has no parts)", err)
}

// wholeFile puts the whole program into memory, as a file.
func wholeFile() (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("daypass", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, where every such file may be run
		fd, err = unix.MemfdCreate("daypass", flags)
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "daypass")
	from, err := gzip.NewReader(strings.NewReader(whole))
	if err == nil {
		_, err = io.Copy(file, from) //nolint:gosec // G110: it was packed when this program was built
	}
	if err == nil {
		_, err = unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}
