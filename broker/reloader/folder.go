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
	// Now is the clock that the files' times are of. Nil: the folder is watched for as
	// long as Still says, however long ago it last changed.
	Now func() time.Time
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

// settle waits until the folder has been still for as long as it should be.
func (f Folder) settle(ctx context.Context) error {
	before, err := f.Stamp(ctx)
	if err != nil {
		return err
	}
	still, err := f.stillFor(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.Still - still):
	}
	after, err := f.Stamp(ctx)
	if err == nil && before != after {
		err = policies.ErrChanging
	}
	return err
}

// stillFor is for how long nothing in the folder has changed: by the times that the kernel
// takes down (ctime), which nobody can set as rsync and tar set the others. Times to
// come, and systems that don't tell, count as just now.
func (f Folder) stillFor(ctx context.Context) (time.Duration, error) {
	if f.Now == nil {
		return 0, nil
	}
	now, still := f.Now(), f.Still
	err := filepath.WalkDir(f.Path, func(path string, _ fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			still = 0 // it went while we looked
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		info, err := os.Stat(path) // of what a symlink leads to
		if err != nil {
			still = 0
			return nil //nolint:nilerr // it went, or leads nowhere: what is read is another's question
		}
		if age := now.Sub(changedAt(info, now)); age >= 0 {
			still = min(still, age)
		} else {
			still = 0
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("looking at policy folder: %w", err)
	}
	return still, nil
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
