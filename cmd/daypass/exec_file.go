package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/issuers"
)

// maxFiles is how many files a command gets at most.
const maxFiles = 32

// fileWish is one --file VARIABLE=POLICY/GRANT:FIELD.
type fileWish struct{ variable, grant, field string }

// parseFiles reads what --file says, which must be of the grants that are asked for.
func parseFiles(list []string, grants []string) ([]fileWish, error) {
	if len(list) > maxFiles {
		return nil, usage("%d times --file, want %d at most", len(list), maxFiles)
	}
	var wishes []fileWish
	for _, text := range list {
		variable, from, ok := strings.Cut(text, "=")
		colon := strings.LastIndexByte(from, ':')
		if !ok || colon < 1 || colon == len(from)-1 {
			return nil, usage("--file %q: want VARIABLE=POLICY/GRANT:FIELD, such as AWS_WEB_IDENTITY_TOKEN_FILE=ci/aws:token", text)
		}
		wish := fileWish{variable, from[:colon], from[colon+1:]}
		if err := issuers.CheckEnvName(variable); err != nil {
			return nil, usage("--file: %w", err)
		}
		if slices.ContainsFunc(wishes, func(other fileWish) bool { return other.variable == variable }) {
			return nil, usage("--file sets %s twice", variable)
		}
		if !slices.Contains(grants, wish.grant) {
			return nil, usage("--file %s: %s is not asked for (hint: add --grant %s)", variable, wish.grant, wish.grant)
		}
		wishes = append(wishes, wish)
	}
	return wishes, nil
}

// fileSet holds values of credentials in files for the command: in memory where the
// machine has a file system for that, for nobody else to read.
//
// Each generation has a folder of its own, and "now" is a link to one of them, so
// that all files are replaced at once: a certificate always stands beside its key.
// The folder before it stays for whoever was about to open a file there.
type fileSet struct {
	wishes []fileWish
	dir    string // "" before the first is written
	count  int
	folder string // to which the link leads
	old    string // to which it led before
}

const currentFiles = "now"

// has says whether a value of a grant stands in a file.
func (f *fileSet) has(grant string) bool {
	return slices.ContainsFunc(f.wishes, func(w fileWish) bool { return w.grant == grant })
}

// contents are the values for the files, by variable.
func (f *fileSet) contents(answer *api.ExchangeResponse) (map[string]string, error) {
	contents := map[string]string{}
	for _, w := range f.wishes {
		i := slices.IndexFunc(answer.Credentials, func(c api.Credential) bool { return c.Grant == w.grant })
		if i < 0 {
			return nil, fmt.Errorf("--file %s: the broker gave nothing for %s", w.variable, w.grant)
		}
		values := answer.Credentials[i].Values
		value, ok := values[w.field]
		if !ok {
			return nil, fmt.Errorf("--file %s: %s has no field %q (hint: it has %s)", w.variable, w.grant, w.field, strings.Join(slices.Sorted(maps.Keys(values)), ", "))
		}
		contents[w.variable] = value
	}
	return contents, nil
}

// write puts the values of an answer in place of those before.
func (f *fileSet) write(answer *api.ExchangeResponse) error {
	contents, err := f.contents(answer)
	if err != nil || len(contents) == 0 {
		return err
	}
	if f.dir == "" {
		if f.dir, err = makePrivate(); err != nil {
			return fmt.Errorf("making a folder for --file: %w", err)
		}
	}
	f.count++
	name := strconv.Itoa(f.count)
	if err := f.writeFolder(name, contents); err != nil {
		_ = os.RemoveAll(filepath.Join(f.dir, name))
		return fmt.Errorf("writing files for --file: %w", err)
	}
	if f.old != "" {
		_ = os.RemoveAll(filepath.Join(f.dir, f.old)) // remove gets another try
	}
	f.old, f.folder = f.folder, name
	return nil
}

func (f *fileSet) writeFolder(name string, contents map[string]string) error {
	folder := filepath.Join(f.dir, name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	for variable, value := range contents {
		if err := writeNew(filepath.Join(folder, variable), value); err != nil {
			return err
		}
	}
	link := filepath.Join(f.dir, currentFiles)
	_ = os.Remove(link + ".new") // of a try that failed
	if err := os.Symlink(name, link+".new"); err != nil {
		return err
	}
	return os.Rename(link+".new", link)
}

// env are the variables with the files' paths, which stay the same.
func (f *fileSet) env() []string {
	var env []string
	for _, w := range f.wishes {
		env = append(env, w.variable+"="+filepath.Join(f.dir, currentFiles, w.variable))
	}
	return env
}

// remove removes all files.
func (f *fileSet) remove() error {
	if f.dir == "" {
		return nil
	}
	return os.RemoveAll(f.dir)
}

// makePrivate makes a folder for this user alone, in memory if it can.
func makePrivate() (string, error) {
	var problems []error
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm", os.TempDir()} {
		if !filepath.IsAbs(base) {
			continue
		}
		dir, err := os.MkdirTemp(base, "daypass-") // 0700
		if err == nil {
			return dir, nil
		}
		problems = append(problems, err)
	}
	return "", errors.Join(problems...)
}
