//go:build unix

package devkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPrograms says that no folder with both `postgres` and `initdb` was found. The error's text names the package to install.
var ErrNoPrograms = errors.New("no PostgreSQL server programs found")

// BinEnv names the environment variable that points at the folder of the PostgreSQL programs to use. When it is set, no other
// folder is looked at.
const BinEnv = "DAYPASS_PG_BIN"

const installHint = "hint: install the server programs: `apt-get install postgresql` (Debian, Ubuntu), " +
	"`dnf install postgresql-server`, `apk add postgresql`, `brew install postgresql@18`, or set " + BinEnv + " to their folder"

// programs is one installed version of PostgreSQL.
type programs struct {
	dir          string
	major, minor int
}

func (p programs) path(name string) string { return filepath.Join(p.dir, name) }

func (p programs) String() string {
	return fmt.Sprintf("PostgreSQL %d.%d in %s", p.major, p.minor, p.dir)
}

// findPrograms returns the newest PostgreSQL on this machine; with a major version other than 0, the newest of that version.
func findPrograms(ctx context.Context, major int) (programs, error) {
	var found []programs
	for _, dir := range programFolders() {
		p, err := inspectPrograms(ctx, dir)
		if err == nil {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		if dir := os.Getenv(BinEnv); dir != "" {
			return programs{}, fmt.Errorf("%w in %s=%s: both postgres and initdb must be there and run\n%s", ErrNoPrograms, BinEnv, dir, installHint)
		}
		return programs{}, fmt.Errorf("%w\n%s", ErrNoPrograms, installHint)
	}
	usable := found
	if major != 0 {
		usable = slices.DeleteFunc(slices.Clone(found), func(p programs) bool { return p.major != major })
	}
	if len(usable) == 0 {
		return programs{}, fmt.Errorf("%w of version %d, which made the data (found %s)\nhint: install postgresql-%d, or remove the data to begin anew",
			ErrNoPrograms, major, found[0], major)
	}
	return slices.MaxFunc(usable, func(a, b programs) int {
		if a.major != b.major {
			return a.major - b.major
		}
		return a.minor - b.minor
	}), nil
}

// programFolders lists where packages put the server programs, on Linux and macOS.
func programFolders() []string {
	if dir := os.Getenv(BinEnv); dir != "" {
		return []string{dir}
	}
	var dirs []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",                               // Debian, Ubuntu
		"/usr/pgsql-*/bin",                                        // the PostgreSQL project's packages for Red Hat and SUSE
		"/usr/lib/postgresql[0-9]*/bin",                           // SUSE
		"/usr/libexec/postgresql[0-9]*",                           // Alpine
		"/opt/homebrew/opt/postgresql*/bin",                       // Homebrew, Apple silicon
		"/usr/local/opt/postgresql*/bin",                          // Homebrew, Intel
		"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",          // Homebrew, Linux
		"/Applications/Postgres.app/Contents/Versions/[0-9]*/bin", // Postgres.app
		"/Library/PostgreSQL/[0-9]*/bin",                          // EnterpriseDB's installer
	} {
		matches, err := filepath.Glob(pattern)
		if err == nil {
			dirs = append(dirs, matches...)
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	return dirs
}

// inspectPrograms asks the programs in dir for their version. It returns an error when one is missing or doesn't run.
func inspectPrograms(ctx context.Context, dir string) (programs, error) {
	p := programs{dir: dir}
	if _, err := exec.LookPath(p.path("initdb")); err != nil {
		return programs{}, fmt.Errorf("looking for initdb: %w", err)
	}
	out, err := exec.CommandContext(ctx, p.path("postgres"), "--version").Output() //nolint:gosec // G204: the program is the one looked for
	if err != nil {
		return programs{}, fmt.Errorf("asking postgres in %s for its version: %w", dir, err)
	}
	p.major, p.minor, err = parseVersion(string(out))
	if err != nil {
		return programs{}, err
	}
	return p, nil
}

// parseVersion reads `postgres (PostgreSQL) 15.18 (Debian …)`; a beta such as `18beta1` counts as minor 0.
func parseVersion(text string) (major, minor int, err error) {
	m := regexp.MustCompile(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`).FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("reading a PostgreSQL version: no number in %q", strings.TrimSpace(text))
	}
	if major, err = strconv.Atoi(m[1]); err != nil {
		return 0, 0, fmt.Errorf("reading a PostgreSQL version: %w", err)
	}
	if m[2] != "" {
		if minor, err = strconv.Atoi(m[2]); err != nil {
			return 0, 0, fmt.Errorf("reading a PostgreSQL version: %w", err)
		}
	}
	return major, minor, nil
}
