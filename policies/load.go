package policies

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Source is where the files of a set are.
type Source struct {
	// FS holds the files. [LoadDir] takes care of a folder on disk.
	FS fs.FS
	// Root is the folder within FS. Empty: all of it.
	Root string
	// Settle, when it is set, is called between two readings, which must find the
	// same files with the same content; it waits for as long as the folder should
	// be still. Nil: the folder is read once, as is right for one that is replaced
	// as a whole (a symlink that is switched).
	Settle func(ctx context.Context) error
}

// Config is what the policies are checked against.
type Config struct {
	// Environments are the names that a policy's `environment` may have. Empty:
	// development, test, staging, production.
	Environments []string
	// Providers maps the names of the configured providers to their types. Nil:
	// providers are not checked, and Set.Skipped says so.
	Providers map[string]string
	// Issuers is asked about every grant. Nil: issuers, roles and parameters are
	// not checked, and Set.Skipped says so.
	Issuers IssuerChecker
}

// IssuerChecker knows the configured issuers.
type IssuerChecker interface {
	// CheckGrant returns an error for people when the issuer or role doesn't
	// exist, the role's `used_by` doesn't name the policy and environment, or the
	// parameters are not what the issuer takes.
	CheckGrant(use GrantUse) error
}

// GrantUse is what a grant wants of an issuer.
type GrantUse struct {
	Issuer      string
	Role        string // "" when the grant names none
	Policy      string
	Environment string
	With        json.RawMessage   // templates not filled; nil when there is none
	Env         map[string]string // value name → environment variable; nil when there is none
}

// The limits of a directory.
const (
	maxFiles = 20_000
	maxTotal = 256 << 20 // bytes
)

// ErrChanging is the error of a folder that changed while it was read: try again
// when it is still.
var ErrChanging = errors.New("the policy folder changed while it was read")

// LoadError is everything that is wrong with a set.
type LoadError struct {
	Mistakes []strictyaml.Mistake // in the order of files and lines
}

// Error lists all mistakes, one a line.
func (e *LoadError) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, m := range e.Mistakes {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// LoadDir loads the policies of a folder on disk. The folder may be a symlink:
// it is resolved once, so that a switch of the link while its files are read
// changes nothing for this call.
func LoadDir(ctx context.Context, dir string, cfg Config) (*Set, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening policy folder: %w", err)
	}
	defer func() { _ = root.Close() }() // opened for reading: nothing is lost
	return Load(ctx, Source{FS: root.FS()}, cfg)
}

// Load reads every *.yaml and *.yml file of the source, at any depth, but for
// names that begin with a dot. The whole of it loads or nothing: mistakes in the
// files are a *[LoadError] with all of them. An empty folder is a set that
// refuses everybody.
func Load(ctx context.Context, src Source, cfg Config) (*Set, error) {
	files, err := readFiles(ctx, src)
	if err != nil {
		return nil, err
	}
	if src.Settle != nil {
		if err := src.Settle(ctx); err != nil {
			return nil, fmt.Errorf("waiting for the policy folder to be still: %w", err)
		}
		again, err := readFiles(ctx, src)
		if err != nil {
			return nil, err
		}
		if digest(files) != digest(again) {
			return nil, ErrChanging
		}
	}
	l, err := newLoader(cfg)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("loading policies: %w", err)
		}
		l.file(f.name, f.data)
	}
	if len(l.mistakes) > 0 {
		return nil, &LoadError{Mistakes: strictyaml.Sort(l.mistakes)}
	}
	l.set.digest = digest(files)
	return l.set, nil
}

// named is one file: its name below the root, with slashes, and its content.
type named struct {
	name string
	data []byte
}

func readFiles(ctx context.Context, src Source) ([]named, error) {
	root := src.Root
	if root == "" {
		root = "."
	}
	var files []named
	var mistakes []strictyaml.Mistake
	total := 0
	err := fs.WalkDir(src.FS, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		below := strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
		if name != root && strings.HasPrefix(path.Base(name), ".") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return nil
		}
		f, mistake, err := readFile(src.FS, name, below)
		switch {
		case err != nil:
			return err
		case mistake != nil:
			mistakes = append(mistakes, *mistake)
		case f != nil:
			files, total = append(files, *f), total+len(f.data)
		}
		if len(files) > maxFiles || total > maxTotal {
			return fmt.Errorf("more than %d files or %d MiB: policies don't get that large", maxFiles, maxTotal>>20)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading policy folder: %w", err)
	}
	if len(mistakes) > 0 {
		return nil, &LoadError{Mistakes: strictyaml.Sort(mistakes)}
	}
	slices.SortFunc(files, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// readFile reads one file; both results are nil for a file that is no policy.
func readFile(fsys fs.FS, name, below string) (*named, *strictyaml.Mistake, error) {
	info, err := fs.Stat(fsys, name) // follows a symlink
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		return nil, &strictyaml.Mistake{File: below, Text: "a symlink to a folder", Hint: "put the folder itself here, so that nothing is left out unseen"}, nil
	}
	if ext := path.Ext(name); ext != ".yaml" && ext != ".yml" {
		return nil, nil, nil
	}
	if !info.Mode().IsRegular() {
		return nil, &strictyaml.Mistake{File: below, Text: "this is no ordinary file"}, nil
	}
	if info.Size() > strictyaml.MaxSize {
		return nil, &strictyaml.Mistake{File: below, Text: fmt.Sprintf("the file is larger than %d bytes", strictyaml.MaxSize), Hint: "split it"}, nil
	}
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, nil, err
	}
	return &named{name: below, data: data}, nil, nil
}

// digest is over names and contents, each with its length before it, so that no
// two different sets look the same when written one after the other.
func digest(files []named) string {
	h := sha256.New()
	part := func(data []byte) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(data)))
		h.Write(length[:])
		h.Write(data)
	}
	for _, f := range files {
		part([]byte(f.name))
		part(f.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}
