package policies

import (
	"cmp"
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
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daypass/daypass/policies/lint"
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
	// Providers are the configured providers by their names. Nil: they are not
	// known, a provider whose name is a type of the catalogue is taken to be of it,
	// and Set.Skipped says so.
	Providers map[string]lint.Provider
	// Issuers is asked about every grant. Nil: issuers, roles and parameters are
	// not checked, and Set.Skipped says so.
	Issuers IssuerChecker
	// Now is when the policies are loaded: waivers of lint rules end. Zero: none
	// has ended.
	Now time.Time
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
	Grant       string
	Environment string
	TTL         time.Duration     // the longest life that the grant names; zero where it names none
	With        json.RawMessage   // templates not filled; nil when there is none
	Env         map[string]string // value name → environment variable; nil when there is none
}

// The limits of a directory.
const (
	maxFiles = 200_000
	maxTotal = 256 << 20 // bytes
)

// ErrChanging is the error of a folder that changed while it was read: try again
// when it is still.
var ErrChanging = errors.New("the policy folder changed while it was read")

// The rules of what is wrong with a set by itself, before the linter judges it:
// Rule of a Finding.
const (
	RuleFile   = "FILE"   // what stands in the folder can't be read as files
	RuleSyntax = "SYNTAX" // a file isn't of the form that policies have
	RulePolicy = "POLICY" // it is, and says what can't be
	RuleTest   = "TEST"   // a test of a policy fails
)

// LoadError is everything that is wrong with a set.
type LoadError struct {
	Mistakes []strictyaml.Mistake // in the order of files and lines
	// Findings are the same, each with its rule, and what the linter has to say
	// besides.
	Findings []lint.Finding
}

// loadError is the error of these findings; nil when none of them is one.
func loadError(findings []lint.Finding) error {
	e := &LoadError{Findings: sortFindings(findings)}
	for _, f := range e.Findings {
		if f.Severity != lint.Error {
			continue
		}
		m := f.Mistake
		switch f.Rule {
		case RuleFile, RuleSyntax, RulePolicy, RuleTest:
		default:
			m.Text = "[" + f.Rule + "] " + m.Text
		}
		e.Mistakes = append(e.Mistakes, m)
	}
	if len(e.Mistakes) == 0 {
		return nil
	}
	e.Mistakes = strictyaml.Sort(e.Mistakes)
	return e
}

// sortFindings puts findings in the order of files, lines and columns, and drops
// repetitions.
func sortFindings(findings []lint.Finding) []lint.Finding {
	slices.SortStableFunc(findings, func(a, b lint.Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return slices.CompactFunc(findings, func(a, b lint.Finding) bool { return a.Mistake == b.Mistake && a.Rule == b.Rule })
}

// errorsOf makes findings of mistakes.
func errorsOf(rule string, mistakes []strictyaml.Mistake) []lint.Finding {
	findings := make([]lint.Finding, len(mistakes))
	for i, m := range mistakes {
		findings[i] = lint.Finding{Mistake: m, Rule: rule, Severity: lint.Error}
	}
	return findings
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
	return compile(ctx, files, cfg)
}

// compile makes a set of files. Files are read and compiled several at a time;
// what came of them is judged and taken into the set in their order, meanwhile.
func compile(ctx context.Context, files []named, cfg Config) (*Set, error) {
	c, err := newShared(cfg)
	if err != nil {
		return nil, err
	}
	set := &Set{digest: digest(files), policies: make(map[string]*policy), grants: make(map[string]*grant), skipped: Skipped(cfg)}
	var findings []lint.Finding
	places := make(map[string]strictyaml.Pos) // policy → where it stands
	linter := c.linter()
	err = c.readAll(ctx, files, func(r *loaded) {
		findings = append(findings, r.findings()...)
		if r.policy == nil {
			return
		}
		linter.Add(r.file)
		findings = append(findings, errorsOf(RulePolicy, set.add(r, places))...)
	})
	if err != nil {
		return nil, err
	}
	set.findings = sortFindings(append(findings, linter.Findings()...))
	if err := loadError(set.findings); err != nil {
		return nil, err
	}
	return set, nil
}

// chunk is how many files a worker takes at a time.
const chunk = 64

// readAll reads and compiles the files, several at a time, and hands each on in
// the order of the files. A policy's tests run here too, since they ask of it alone.
func (c *shared) readAll(ctx context.Context, files []named, take func(*loaded)) error {
	chunks := make([]chan []*loaded, (len(files)+chunk-1)/chunk)
	for n := range chunks {
		chunks[n] = make(chan []*loaded, 1)
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	defer workers.Wait()
	for range min(runtime.GOMAXPROCS(0), len(chunks)) {
		workers.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(chunks) && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				part := files[n*chunk : min((n+1)*chunk, len(files))]
				read := make([]*loaded, len(part))
				for i, f := range part {
					read[i] = c.load(f.name, f.data)
				}
				chunks[n] <- read
			}
		})
	}
	for _, done := range chunks {
		select {
		case read := <-done:
			for _, r := range read {
				take(r)
			}
		case <-ctx.Done():
			return fmt.Errorf("loading policies: %w", ctx.Err())
		}
	}
	return nil
}

// add takes a policy into the set.
func (s *Set) add(r *loaded, places map[string]strictyaml.Pos) []strictyaml.Mistake {
	p, at := r.policy, r.file.Policy.At.Of("policy")
	if p.name == "" {
		return nil
	}
	if first, found := places[p.name]; found {
		return []strictyaml.Mistake{at.Mistake("a policy is one file", "the policy %s stands in %s already", p.name, first)}
	}
	places[p.name] = at
	s.policies[p.name] = p
	for _, g := range p.grants {
		s.grants[p.name+"/"+g.name] = g
	}
	return nil
}

func (c *shared) linter() *lint.Linter {
	return lint.New(lint.Context{Providers: c.cfg.Providers, Now: c.cfg.Now, Conditions: func(text string) []string {
		compiled, _ := c.conditions.Compile(text)
		if compiled == nil {
			return nil
		}
		return compiled.Names()
	}})
}

// Skipped says in words which checks are left out with this configuration.
func Skipped(cfg Config) []string {
	var list []string
	if cfg.Providers == nil {
		list = append(list, "names of providers: no configuration to check them against; one that is called as a type (github) is taken to be of it")
	}
	if cfg.Issuers == nil {
		list = append(list, "issuers, roles and parameters: no configuration to check them against")
	}
	return list
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
		return nil, loadError(errorsOf(RuleFile, mistakes))
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
