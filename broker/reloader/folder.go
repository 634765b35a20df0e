package reloader

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/daypass/daypass/policies"
)

// Folder is a policy folder on disk. It is looked at by asking for names, sizes
// and times, not by the kernel's notifications: those see nothing of a network
// file system, nor of a symlink above the folder, and need one watch for each
// folder below it.
type Folder struct {
	Path string
	// Still is how long a folder must not change before it counts; zero: it is read
	// once. One behind a symlink is read once in any case: it is replaced as a whole.
	Still time.Duration
}

// Load reads the folder as one snapshot.
func (f Folder) Load(ctx context.Context, cfg policies.Config) (*policies.Set, error) {
	root, err := f.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // opened for reading: nothing is lost
	source := policies.Source{FS: root.FS()}
	if info, err := os.Lstat(f.Path); f.Still > 0 && err == nil && info.Mode()&fs.ModeSymlink == 0 {
		source.Settle = func(ctx context.Context) error { return f.settle(ctx) }
	}
	return policies.Load(ctx, source, cfg)
}

// settle waits for as long as the folder should be still.
func (f Folder) settle(ctx context.Context) error {
	before, err := f.Stamp(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.Still):
	}
	after, err := f.Stamp(ctx)
	if err == nil && before != after {
		err = policies.ErrChanging
	}
	return err
}

// Digest is that of the files, read once.
func (f Folder) Digest(ctx context.Context) (string, error) {
	root, err := f.open()
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }() // opened for reading: nothing is lost
	return policies.Digest(ctx, policies.Source{FS: root.FS()})
}

func (f Folder) open() (*os.Root, error) {
	root, err := os.OpenRoot(f.Path)
	if err != nil {
		return nil, fmt.Errorf("opening policy folder: %w", err)
	}
	return root, nil
}

// Stamp is over where the folder really is, and the names, sizes, modes and
// times of all that is in it; a symlink in it counts with what it leads to.
func (f Folder) Stamp(ctx context.Context) (string, error) {
	where, err := filepath.EvalSymlinks(f.Path)
	if err != nil {
		return "", fmt.Errorf("looking at policy folder: %w", err)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q\n", where)
	err = filepath.WalkDir(where, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err) && path != where:
			return nil // it went while we looked: the next look sees what came of it
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			leads, _ := os.Readlink(path)
			_, _ = fmt.Fprintf(h, "%q\n", leads)
		}
		if info, missing := os.Stat(path); missing == nil {
			_, _ = fmt.Fprintf(h, "%q %d %v %d\n", path, info.Size(), info.Mode(), info.ModTime().UnixNano())
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("looking at policy folder: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
