package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const standardInput = "(standard input)"

var (
	errSpecial = errors.New(`it is no regular file (hint: "-" reads standard input)`)
	errOutside = errors.New("a symbolic link that leads out of what is scanned is not followed")
)

// path reads what an argument names: a file, a folder with all below it, or "-".
func (s *scan) path(ctx context.Context, name string) error {
	if name == "-" {
		if err := s.walker.Read(ctx, standardInput, s.p.stdin); err != nil {
			return fmt.Errorf("scanning standard input: %w", err)
		}
		return nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("scanning: %w", err)
	}
	if !info.IsDir() {
		return s.file(ctx, name, func([]byte) error { return nil })
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return fmt.Errorf("scanning: %w", err)
	}
	defer root.Close() //nolint:errcheck // it was only read
	return fs.WalkDir(root.FS(), ".", func(below string, entry fs.DirEntry, err error) error {
		full := filepath.Join(name, below)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.unread(full, err)
			return nil
		case entry.IsDir():
			return s.folder(full, below)
		case entry.Type()&fs.ModeSymlink != 0:
			s.link(root, full, below)
			return nil
		case !entry.Type().IsRegular():
			s.unread(full, errSpecial)
			return nil
		}
		return s.below(ctx, root, full, below)
	})
}

// folder leaves a git store aside: its files are packed in a way of its own.
func (s *scan) folder(full, below string) error {
	if path.Base(below) == "objects" && path.Base(path.Dir(below)) == ".git" {
		s.report.Notes = append(s.report.Notes, fmt.Sprintf("the history in %s was not looked at (hint: --git %s)", full, filepath.Dir(filepath.Dir(full))))
		return fs.SkipDir
	}
	return nil
}

// link tells of a link that leads out of the folder. One that stays in it leads to
// what is read anyway.
func (s *scan) link(root *os.Root, full, below string) {
	if _, err := root.Stat(below); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.report.Notes = append(s.report.Notes, full+": "+errOutside.Error())
	}
}

// below reads one file of a folder. What can't be read there doesn't end the scan.
func (s *scan) below(ctx context.Context, root *os.Root, full, below string) error {
	f, err := root.OpenFile(below, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		s.unread(full, err)
		return nil
	}
	defer f.Close() //nolint:errcheck // it was only read
	if !s.regular(full, f) {
		return nil
	}
	return s.opened(ctx, full, f)
}

// file reads a file that was named, once check has seen how it begins.
func (s *scan) file(ctx context.Context, name string, check func(begin []byte) error) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) //nolint:gosec // the user names the file
	if err != nil {
		return fmt.Errorf("scanning: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	if !s.regular(name, f) {
		return nil
	}
	begin := make([]byte, 512)
	n, err := io.ReadFull(f, begin)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		n = 0 // the walk meets it again, and tells
	}
	if err := check(begin[:n]); err != nil {
		return err
	}
	return s.opened(ctx, name, io.MultiReader(bytes.NewReader(begin[:n]), f))
}

// regular says whether a file is one; if not, it tells.
func (s *scan) regular(name string, f *os.File) bool {
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		return true
	}
	s.unread(name, errSpecial)
	return false
}

// opened reads a file.
func (s *scan) opened(ctx context.Context, name string, r io.Reader) error {
	reading := &failing{from: r}
	err := s.walker.Read(ctx, name, reading)
	if err != nil && reading.err != nil && ctx.Err() == nil {
		s.unread(name, reading.err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("scanning %s: %w", name, err)
	}
	return nil
}

// failing remembers that a file could not be read.
type failing struct {
	from io.Reader
	err  error
}

// Read implements io.Reader.
func (f *failing) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
