package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/leaks/archive"
	"github.com/daypass/daypass/broker/leaks/history"
)

// scanFlags are the command line of scan.
type scanFlags struct {
	paths, repositories, archives []string
	tokens, local, revoke, some   bool
	from                          string
	limits                        archive.Limits
}

func (p *program) scanCommand() *cobra.Command {
	var flags scanFlags
	cmd := &cobra.Command{
		Use:   "scan PATH... | - | --git DIR | --archive FILE",
		Short: "Find the broker's credentials in files, archives, images and git histories",
		Long: `Scan looks for credentials that the broker issued, as they are and encoded
(base64, hex, percent, escapes, UTF-16), in files and folders, in standard input
("-"), in what lies in archives (gzip, bzip2, zip, tar, container images with all
their layers), and with --git in everything that a repository's store holds,
deleted files and messages included.

For each it tells whose it is, the job that had it, whether it still works and
where it stands, never what it is.

What is read is sent to the broker, which alone knows what it issued and keeps
nothing of what it is sent. --tokens looks here, for what has the broker's own
shape, and sends nothing but what it found; values of other shapes (a JWT, a
static secret) are then not found. --local sends nothing, and can't say whose a
token is. A session's token asks about that session's leases; a redactor's or an
operator's about all.

Symbolic links are not followed. What can't be read is told.

The exit code is 0 when everything was read and nothing found, 1 when something
was found or could not be read.`,
		Example: `  daypass scan build.log
  kubectl get secret -A -o yaml | daypass scan -
  daypass scan --git . --revoke
  docker save app:latest | daypass scan - --output json
  daypass scan --local dist/`,
	}
	out := outputFlag(cmd)
	set := cmd.Flags()
	set.StringArrayVar(&flags.repositories, "git", nil, "a git repository, all of its history; may be repeated")
	set.StringArrayVar(&flags.archives, "archive", nil, "a file that must be an archive; may be repeated")
	set.BoolVar(&flags.tokens, "tokens", false, "send the broker only what has the shape of its tokens, not what is read")
	set.BoolVar(&flags.local, "local", false, "ask nobody: find what has the shape of a token")
	set.BoolVar(&flags.revoke, "revoke", false, "take back what is found")
	set.StringVar(&flags.from, "source", "", "what the broker's record calls what is scanned, instead of what is named here")
	set.BoolVar(&flags.some, "allow-unread", false, "exit with 0 where something could not be read and nothing was found")
	def := archive.DefaultLimits()
	set.IntVar(&flags.limits.Depth, "max-depth", def.Depth, "how many archives may lie in each other")
	set.Int64Var(&flags.limits.Bytes, "max-bytes", def.Bytes, "how much all archives may unpack to")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		flags.paths = args
		if err := flags.check(p); err != nil {
			return err
		}
		return p.scan(cmd.Context(), &flags, *out)
	}
	return cmd
}

func (f *scanFlags) check(p *program) error {
	switch {
	case len(f.paths)+len(f.repositories)+len(f.archives) == 0:
		return usage(`nothing to scan (hint: a file, a folder, "-" for standard input, --git DIR or --archive FILE)`)
	case f.local && f.tokens:
		return usage("--local sends nothing, --tokens what it found: use one of them")
	case f.local && f.revoke:
		return usage("--local asks nobody, so nothing can be revoked")
	case f.limits.Depth < 1 || f.limits.Bytes < 1:
		return usage("--max-depth and --max-bytes are at least 1")
	case slices.Contains(f.paths, "-") && p.tokenFile == "-":
		return usage("standard input can't be both the token and what is scanned")
	}
	return nil
}

// maxSource is how much the broker keeps of a source, in bytes.
const maxSource = 200

// source is what the broker's record calls what is scanned: a search is of many texts
// at once, so it is what was named.
func (f *scanFlags) source() string {
	names := slices.Concat(f.paths, f.archives)
	for i, name := range names {
		if name == "-" {
			names[i] = standardInput
		}
	}
	for _, dir := range f.repositories {
		names = append(names, "git "+dir)
	}
	source := cmp.Or(f.from, strings.Join(names, ", "))
	return strings.ToValidUTF8(source[:min(len(source), maxSource)], "")
}

// searcher looks at texts. What it finds it tells the scan, at the latest when it ends.
type searcher interface {
	search(ctx context.Context, text scanText, r io.Reader) error
	end(ctx context.Context) error
}

// scanText says which text it is.
type scanText struct {
	path   string // of a file, with members behind it; of an object of git, once it is known
	repo   string // whose object it is
	object string
	kind   string // of the object
}

// scan is one run of the command.
type scan struct {
	p       *program
	report  scanReport
	found   []scanLeak
	seen    map[scanKey]bool
	search  searcher
	walker  *archive.Walker
	current scanText // what the walker is at
}

// scanKey tells hits apart: where texts are sent in parts, parts overlap.
type scanKey struct {
	text           scanText
	offset         int64
	length         int
	lease, session string
}

func (p *program) scan(ctx context.Context, flags *scanFlags, out output) error {
	s := &scan{p: p, seen: map[scanKey]bool{}}
	if err := s.searcher(flags); err != nil {
		return err
	}
	s.walker = &archive.Walker{
		Limits: flags.limits,
		Text: func(name string, r io.Reader) error {
			text := s.current
			text.path = name
			s.report.Texts++
			return s.search.search(ctx, text, &counting{from: r, bytes: &s.report.Bytes})
		},
		Unread: s.unread,
	}
	for _, path := range flags.paths {
		if err := s.path(ctx, path); err != nil {
			return err
		}
	}
	for _, path := range flags.archives {
		if err := s.archive(ctx, path); err != nil {
			return err
		}
	}
	for _, dir := range flags.repositories {
		if err := s.repository(ctx, dir); err != nil {
			return err
		}
	}
	if err := s.search.end(ctx); err != nil {
		return err
	}
	s.placeInHistory(ctx, flags.repositories)
	return s.tell(flags, out)
}

// searcher chooses who looks.
func (s *scan) searcher(flags *scanFlags) error {
	if flags.local {
		s.search = newLocalSearch(s.tellLocal)
		return nil
	}
	c, token, err := s.p.withToken()
	if err != nil {
		return err
	}
	ask := &leakAsking{client: c, token: token, search: client.LeakSearch{Revoke: flags.revoke, Source: flags.source()}}
	if flags.tokens {
		s.search = newTokenSearch(ask, s)
		return nil
	}
	s.search = newWholeSearch(ask, s)
	return nil
}

// counting counts what is read.
type counting struct {
	from  io.Reader
	bytes *int64
}

// Read implements io.Reader.
func (c *counting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	*c.bytes += int64(n)
	return n, err
}

// repository reads a repository's store.
func (s *scan) repository(ctx context.Context, dir string) error {
	defer func() { s.current = scanText{} }()
	err := history.Open(dir).Read(ctx, func(o history.Object, r io.Reader) error {
		s.current = scanText{repo: dir, object: o.ID, kind: o.Type}
		return s.walker.Read(ctx, o.ID, r)
	})
	if err != nil {
		return fmt.Errorf("reading the repository %s: %w", dir, err)
	}
	return nil
}

// placeInHistory finds out where the blobs stand in which something was found.
func (s *scan) placeInHistory(ctx context.Context, repositories []string) {
	for _, dir := range repositories {
		var blobs []string
		for _, leak := range s.found {
			if leak.Repository == dir && leak.objectKind == "blob" && !slices.Contains(blobs, leak.Object) {
				blobs = append(blobs, leak.Object)
			}
		}
		if len(blobs) == 0 {
			continue
		}
		places := history.Open(dir).Places(ctx, blobs)
		for i, leak := range s.found {
			if place, ok := places[leak.Object]; ok && leak.Repository == dir {
				s.found[i].Path, s.found[i].Commit = place.Path+leak.Path[len(leak.Object):], place.Commit
			}
		}
	}
}

func (s *scan) unread(name string, why error) {
	if s.current.object != "" {
		name = s.current.repo + " " + s.current.kind + " " + name
	}
	s.report.Unread = append(s.report.Unread, scanUnread{name, why.Error()})
}

var errNoArchive = errors.New("it is no archive that can be unpacked")

// archive reads a file that must be one.
func (s *scan) archive(ctx context.Context, path string) error {
	return s.file(ctx, path, func(begin []byte) error {
		if what, ok := archive.Is(begin); !ok {
			return fmt.Errorf("reading %s: %w (%s)", path, errNoArchive, cmp.Or(what, "hint: without --archive it is read as a text"))
		}
		return nil
	})
}
