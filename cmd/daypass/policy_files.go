//go:build !packed

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/report"
	"github.com/daypass/daypass/policies/strictyaml"
)

// sources are the folders and files of a command line, as one tree: what the
// first names stands below the folder daypass-source-0, and so on.
type sources struct {
	mounts []mount
}

// mountPrefix begins the names of those folders; no message holds it by chance.
const mountPrefix = "daypass-source-"

type mount struct {
	shown string // the folder as it was given, or that of the file
	root  *os.Root
	only  string // the one file that was given; "" for a folder
}

// openSources opens what the arguments name; the current folder when there are none.
func openSources(args []string) (*sources, error) {
	if len(args) == 0 {
		args = []string{"."}
	}
	s := &sources{}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("opening policies: %w", err)
		}
		m := mount{shown: filepath.Clean(arg)}
		if !info.IsDir() {
			m.shown, m.only = filepath.Split(m.shown)
			m.shown = filepath.Clean(m.shown)
		}
		if ext := path.Ext(m.only); m.only != "" && ext != ".yaml" && ext != ".yml" {
			s.close()
			return nil, usage("%s is no policy file: those end in .yaml or .yml", arg)
		}
		if m.root, err = os.OpenRoot(m.shown); err != nil {
			s.close()
			return nil, fmt.Errorf("opening policies: %w", err)
		}
		s.mounts = append(s.mounts, m)
	}
	return s, nil
}

func (s *sources) close() {
	for _, m := range s.mounts {
		m.root.Close() //nolint:errcheck // it was only read
	}
}

// source is what policies.Load reads. Of one folder the names are those that the
// server sees, and so is the digest.
func (s *sources) source() policies.Source {
	if len(s.mounts) == 1 {
		return policies.Source{FS: s, Root: mountPrefix + "0"}
	}
	return policies.Source{FS: s}
}

// name is how a file of the tree is called from here.
func (s *sources) name(file string) string {
	n := 0
	if len(s.mounts) > 1 {
		first, rest, _ := strings.Cut(file, "/")
		number, err := strconv.Atoi(strings.TrimPrefix(first, mountPrefix))
		if err != nil || number < 0 || number >= len(s.mounts) {
			return file
		}
		n, file = number, rest
	}
	return filepath.Join(s.mounts[n].shown, filepath.FromSlash(file))
}

// text puts the names of files within a message as they are called from here.
func (s *sources) text(text string) string {
	for i, m := range s.mounts {
		if len(s.mounts) > 1 {
			shown := strings.TrimSuffix(filepath.Join(m.shown, "x"), "x") // "" for the current folder
			text = strings.ReplaceAll(text, mountPrefix+strconv.Itoa(i)+"/", shown)
		}
	}
	return text
}

// split finds the mount of a name, and the name below it.
func (s *sources) split(name string) (*mount, string, error) {
	first, rest, _ := strings.Cut(name, "/")
	n, err := strconv.Atoi(strings.TrimPrefix(first, mountPrefix))
	if err != nil || n < 0 || n >= len(s.mounts) || !fs.ValidPath(name) {
		return nil, "", fs.ErrNotExist
	}
	if rest == "" {
		rest = "."
	}
	return &s.mounts[n], rest, nil
}

// Open implements fs.FS.
func (s *sources) Open(name string) (fs.File, error) {
	m, below, err := s.split(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return m.root.FS().Open(below)
}

// Stat implements fs.StatFS.
func (s *sources) Stat(name string) (fs.FileInfo, error) {
	if name == "." {
		return s.mounts[0].root.Stat(".")
	}
	m, below, err := s.split(name)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return m.root.Stat(below)
}

// ReadDir implements fs.ReadDirFS.
func (s *sources) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "." {
		list := make([]fs.DirEntry, len(s.mounts))
		for i, m := range s.mounts {
			info, err := m.root.Stat(".")
			if err != nil {
				return nil, err
			}
			list[i] = numbered{fs.FileInfoToDirEntry(info), mountPrefix + strconv.Itoa(i)}
		}
		return list, nil
	}
	m, below, err := s.split(name)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	list, err := fs.ReadDir(m.root.FS(), below)
	if err == nil && m.only != "" {
		list = slices.DeleteFunc(list, func(e fs.DirEntry) bool { return e.Name() != m.only })
	}
	return list, err
}

// numbered is a folder under another name.
type numbered struct {
	fs.DirEntry

	name string
}

func (n numbered) Name() string { return n.name }

// policyFile is one file, as it stands on disk.
type policyFile struct {
	name string // from here
	data []byte
}

// files reads the policy files as [policies.Load] would.
func (s *sources) files() ([]policyFile, error) {
	var list []policyFile
	src := s.source()
	root := src.Root
	if root == "" {
		root = "."
	}
	err := fs.WalkDir(s, root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != root && strings.HasPrefix(path.Base(name), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir() || path.Ext(name) != ".yaml" && path.Ext(name) != ".yml":
			return nil
		}
		info, err := fs.Stat(s, name)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() > strictyaml.MaxSize {
			return fmt.Errorf("%s: no ordinary file, or larger than %d bytes", s.name(strings.TrimPrefix(name, root+"/")), strictyaml.MaxSize)
		}
		data, err := fs.ReadFile(s, name)
		if err != nil {
			return err
		}
		list = append(list, policyFile{s.name(strings.TrimPrefix(name, root+"/")), data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	return list, nil
}

// loadedPolicies is what came of loading.
type loadedPolicies struct {
	set      *policies.Set  // nil when there are errors
	findings []lint.Finding // with names of files from here
	skipped  []string
	config   *config.Config // nil without --config
	sources  *sources
}

// loadPolicies loads what the arguments name and checks it against the server's
// configuration, where one is given. Mistakes of the policies are no error.
func (p *program) loadPolicies(ctx context.Context, args []string, configFile string) (*loadedPolicies, error) {
	cfg := policies.Config{Now: p.now()}
	l := &loadedPolicies{}
	if configFile != "" {
		var err error
		if l.config, err = readConfig(configFile); err != nil {
			return nil, err
		}
		cfg.Environments, cfg.Providers, cfg.Issuers = l.config.Environments, l.config.PolicyProviders(), l.config
		l.skipped = []string{"parameters (`with`): issuers check theirs when the server loads the policies"}
	}
	s, err := openSources(args)
	if err != nil {
		return nil, err
	}
	defer s.close()
	l.sources = s
	l.set, err = policies.Load(ctx, s.source(), cfg)
	failed, isLoadError := errors.AsType[*policies.LoadError](err)
	switch {
	case isLoadError:
		l.findings = slices.Clone(failed.Findings)
	case err != nil:
		return nil, err
	default:
		l.findings = slices.Clone(l.set.Findings())
	}
	for i := range l.findings {
		l.findings[i].File = s.name(l.findings[i].File)
		l.findings[i].Text = s.text(l.findings[i].Text)
	}
	if configFile == "" {
		l.skipped = policies.Skipped(cfg)
	}
	return l, nil
}

// mustLoad is loadPolicies for commands that need the set: its errors are printed.
func (p *program) mustLoad(ctx context.Context, args []string, configFile string) (*loadedPolicies, error) {
	l, err := p.loadPolicies(ctx, args, configFile)
	if err != nil {
		return nil, err
	}
	if l.set == nil {
		bad := slices.DeleteFunc(slices.Clone(l.findings), func(f lint.Finding) bool { return f.Severity != lint.Error })
		if err := report.Text(cleaner{p.stderr}, bad); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("the policies don't load: %s", plural(len(bad), "error"))
	}
	return l, nil
}

// readConfig reads what policies need of the server's configuration.
func readConfig(file string) (*config.Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > strictyaml.MaxSize {
		return nil, fmt.Errorf("reading configuration: %s is no ordinary file, or larger than %d bytes", file, strictyaml.MaxSize)
	}
	data, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	c, mistakes := config.ParseForPolicies(file, data)
	if len(mistakes) > 0 {
		return nil, fmt.Errorf("reading configuration: %w", &policies.LoadError{Mistakes: mistakes})
	}
	return c, nil
}

// plural counts things in words.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
