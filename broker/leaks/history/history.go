// Package history reads a git repository: every blob, every message of a commit
// and every tag that its object store holds, whether a branch still leads there
// or not. What was committed and deleted is found, and what was amended away and
// not yet collected too.
//
// The machine's git reads the store (git cat-file), each object once. The
// repository may be a stranger's, so nothing that it configures is run: git gets
// a clean environment, no configuration but the repository's own, no transport by
// which an object that is missing could be fetched, and only plumbing is called
// that knows no hooks, filters, pagers or signatures.
package history

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Object is one object of the store.
type Object struct {
	ID   string // in hex
	Type string // "blob", "commit" or "tag"
	Size int64
}

const (
	maxHeader = 256              // of a line before an object, in bytes
	maxErrors = 4 << 10          // of what git complains of
	waiting   = 10 * time.Second // for git to end, once it is told to
)

// ErrGit says that git is not there, or can't read the repository.
var ErrGit = errors.New("git")

// Repository is one on this machine.
type Repository struct{ dir string }

// Open names a repository by its folder: a work tree, or a bare one.
func Open(dir string) *Repository { return &Repository{dir} }

// command is a call of git that runs nothing of the repository's.
func (r *Repository) command(ctx context.Context, args ...string) *exec.Cmd {
	set := []string{"-C", r.dir, "--no-pager", "--no-optional-locks", "-c", "safe.directory=*"}
	for _, config := range []string{
		"core.fsmonitor=false", "core.hooksPath=/dev/null", "core.sshCommand=false", "core.askPass=", "credential.helper=",
		"core.commitGraph=false", "log.showSignature=false", "log.showRoot=true", "log.mailmap=false", "gc.auto=0", "protocol.allow=never",
	} {
		set = append(set, "-c", config)
	}
	cmd := exec.CommandContext(ctx, "git", append(set, args...)...) //nolint:gosec // the folder is the user's to name
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "GIT_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	// Whatever a repository's configuration allows, GIT_ALLOW_PROTOCOL overrides.
	cmd.Env = append(cmd.Env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ALLOW_PROTOCOL=none", "GIT_NO_LAZY_FETCH=1",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "GIT_SSH_COMMAND=false", "GIT_FLUSH=0", "LC_ALL=C")
	cmd.WaitDelay = waiting
	return cmd
}

// complaint keeps the beginning of what git complains of.
type complaint struct{ bytes.Buffer }

// Write implements io.Writer.
func (c *complaint) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), maxErrors-min(c.Len(), maxErrors))])
	return len(p), nil
}

// fail is git's error, with what it says itself.
func (c *complaint) fail(err error) error {
	if line, _, _ := strings.Cut(strings.TrimSpace(c.String()), "\n"); line != "" {
		return fmt.Errorf("%w: %w: %s", ErrGit, err, line)
	}
	return fmt.Errorf("%w: %w", ErrGit, err)
}

// Read gives each object that holds text, in the order of the store. What read
// leaves of an object is skipped; an error of read ends it and is returned.
func (r *Repository) Read(ctx context.Context, read func(Object, io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var said complaint
	cmd := r.command(ctx, "cat-file", "--batch", "--batch-all-objects", "--unordered", "--buffer")
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGit, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w (hint: install git, or scan a clone's files without --git)", ErrGit, err)
	}
	in := bufio.NewReaderSize(out, 64<<10)
	for {
		err = next(in, read)
		if err != nil {
			break
		}
	}
	if !errors.Is(err, io.EOF) {
		cancel() // git would go on writing
	}
	ended := cmd.Wait()
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case ended != nil:
		return said.fail(ended)
	}
	return nil
}

// next reads one object; io.EOF where there is none.
func next(in *bufio.Reader, read func(Object, io.Reader) error) error {
	line, err := in.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return io.EOF
	case err != nil || len(line) > maxHeader:
		return fmt.Errorf("%w: its answer can't be read", ErrGit)
	}
	fields := strings.Fields(string(line))
	if len(fields) == 2 && fields[1] == "missing" {
		return nil
	}
	if len(fields) != 3 {
		return fmt.Errorf("%w: its answer can't be read", ErrGit)
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("%w: its answer can't be read", ErrGit)
	}
	object := Object{ID: fields[0], Type: fields[1], Size: size}
	content := &io.LimitedReader{R: in, N: size}
	if object.Type == "blob" || object.Type == "commit" || object.Type == "tag" {
		if err := read(object, content); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, content); err != nil || content.N > 0 {
		return fmt.Errorf("%w: an object ends early", ErrGit)
	}
	if b, err := in.ReadByte(); err != nil || b != '\n' {
		return fmt.Errorf("%w: its answer can't be read", ErrGit)
	}
	return nil
}

// Place is where a blob stands in the history.
type Place struct {
	Path   string // of the first tree that holds it; empty where no reference leads there
	Commit string // the first that brought it; empty where it isn't known
}

const (
	maxPlaced  = 1000 // blobs whose commits are looked for at once
	placeLimit = 2 * time.Minute
)

// Places looks for the paths and the commits of blobs; both are searched in what
// references and reflogs lead to. What takes longer than two minutes is left out.
func (r *Repository) Places(ctx context.Context, blobs []string) map[string]Place {
	ctx, cancel := context.WithTimeout(ctx, placeLimit)
	defer cancel()
	places := make(map[string]Place, len(blobs))
	for _, blob := range blobs {
		places[blob] = Place{}
	}
	// One line an object: its id and, of blobs and trees, a path.
	r.lines(ctx, func(line string) {
		id, path, _ := strings.Cut(line, " ")
		if place, ok := places[id]; ok && place.Path == "" {
			places[id] = Place{Path: path}
		}
	}, "rev-list", "--objects", "--all", "--reflog")
	var args []string
	for blob, place := range places {
		if place.Path != "" && len(args) < maxPlaced {
			args = append(args, "--find-object="+blob)
		}
	}
	if len(args) == 0 {
		return places
	}
	// The oldest commit last: what it adds came with it. Raw lines are
	// ":MODE MODE OLD NEW STATUS", and then a path.
	commit := ""
	r.lines(ctx, func(line string) {
		if line == "" {
			return
		}
		if line[0] != ':' {
			commit = line
			return
		}
		if fields := strings.Fields(line); len(fields) >= 5 {
			if _, ok := places[fields[3]]; ok {
				_, path, _ := strings.Cut(line, "\t")
				places[fields[3]] = Place{Path: path, Commit: commit}
			}
		}
	}, append([]string{"log", "--all", "--reflog", "-m", "--raw", "--no-abbrev", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--no-notes", "--format=%H"}, args...)...)
	return places
}

// lines gives each line that git writes; without all of them where it fails.
func (r *Repository) lines(ctx context.Context, line func(string), args ...string) {
	cmd := r.command(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		line(lines.Text())
	}
	_, _ = io.Copy(io.Discard, out) // behind a line that is too long
	_ = cmd.Wait()                  // what it has not said stays unknown
}
