// Package archive gives the texts that lie in a file, however they are packed:
// gzip, bzip2, zip, tar, one in the other, and so also container images (what
// `docker save` writes, or an OCI layout), of which every layer is read, files
// that a later layer removes included.
//
// What a file is, its first bytes say and not its name. What is no archive is a
// text, whatever bytes it has.
//
// Archives come from strangers. [Limits] bounds how deep they lie in each other,
// how many members they have, how much they unpack to and how many times more
// than they are packed; what is not read because of them, or can't be, is told
// to [Walker.Unread] and never left out in silence.
package archive

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Limits bounds what is unpacked. The zero value of a field stands for that of
// [DefaultLimits].
type Limits struct {
	// Depth is how many archives may lie in each other.
	Depth int
	// Members is how many members all archives may have.
	Members int
	// Bytes is how much all archives may unpack to.
	Bytes int64
	// Ratio is how many times its own length one archive may unpack to, beyond the
	// first 16 MiB.
	Ratio int64
}

// DefaultLimits is large enough for an image of some gigabytes.
func DefaultLimits() Limits {
	return Limits{Depth: 8, Members: 1_000_000, Bytes: 32 << 30, Ratio: 200}
}

const (
	free         = 16 << 20 // unpacked bytes of an archive for which no ratio is asked
	maxName      = 4 << 10  // of a member, in bytes
	maxDirectory = 16 << 20 // of a zip file, in bytes
	inMemory     = 4 << 20  // of a zip file that isn't a file; what is longer goes to a temporary one
	peeked       = 512      // a block of tar
)

// Is says whether a file that begins so is an archive that is unpacked; for one
// that isn't, what it is, if that can be said. 512 bytes are enough.
func Is(begin []byte) (what string, unpacked bool) {
	k := kindOf(begin)
	return string(k), k.unpacked()
}

// Within stands between an archive's name and its member's.
const Within = "!"

// Why something was not read, as Unread is told, wraps one of these.
var (
	// ErrLimit says that a limit ended the reading of an archive.
	ErrLimit = errors.New("a limit was reached")
	// ErrKind says that this kind of archive isn't unpacked.
	ErrKind = errors.New("not unpacked")
	// ErrDamaged says that an archive can't be read to its end.
	ErrDamaged = errors.New("damaged")
)

// Walker gives the texts of files. It is not safe for concurrent use.
type Walker struct {
	// Limits are for all that this walker reads.
	Limits Limits
	// Text takes a text. What it leaves unread is skipped; an error ends the walk.
	// The name is the file's, behind it those of members, after [Within] each.
	Text func(name string, r io.Reader) error
	// Unread is told what was not read, in whole or from some place on, and why.
	Unread func(name string, why error)

	members int
	bytes   int64
	readers []*bufio.Reader
}

// Read gives the texts of one file. Its errors are those of Text, of ctx, and of
// reading r: what an archive has wrong goes to Unread.
func (w *Walker) Read(ctx context.Context, name string, r io.Reader) error {
	w.Limits = w.Limits.orDefault()
	from := &source{ctx: ctx, from: r}
	err := w.read(ctx, name, from, 0)
	if stop, ok := errors.AsType[*stopped](err); ok {
		return stop.err
	}
	return cmp.Or(from.err, err)
}

func (l Limits) orDefault() Limits {
	def := DefaultLimits()
	return Limits{
		Depth: cmp.Or(l.Depth, def.Depth), Members: cmp.Or(l.Members, def.Members),
		Bytes: cmp.Or(l.Bytes, def.Bytes), Ratio: cmp.Or(l.Ratio, def.Ratio),
	}
}

// source is a file, or a member: it tells errors of reading it from errors of
// what is made of its bytes.
type source struct {
	ctx  context.Context //nolint:containedctx // of one walk
	from io.Reader
	read int64 // bytes
	err  error // of from
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, err
	}
	n, err := s.from.Read(p)
	s.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// read reads what may be an archive.
func (w *Walker) read(ctx context.Context, name string, from *source, depth int) error {
	if depth == len(w.readers) {
		w.readers = append(w.readers, bufio.NewReaderSize(nil, 64<<10))
	}
	in := w.readers[depth] // one for each depth, since a store of git has a million files
	in.Reset(from)
	begin, err := in.Peek(peeked) // an error comes again, behind what came before it
	kind := kindOf(begin)
	switch {
	case kind == text:
		return w.Text(name, in)
	case !kind.unpacked():
		w.Unread(name, fmt.Errorf("%s is %w", kind, ErrKind))
		return nil
	case depth >= w.Limits.Depth:
		w.Unread(name, fmt.Errorf("%w: it lies %d archives deep", ErrLimit, depth+1))
		return nil
	}
	out := &unpacking{w: w, packed: from, depth: depth}
	switch kind {
	case gzipped:
		var z *gzip.Reader
		if z, err = gzip.NewReader(in); err == nil {
			err = w.inner(ctx, name, out, z)
		}
	case bzipped:
		err = w.inner(ctx, name, out, bzip2.NewReader(in))
	case tarred:
		err = w.tar(ctx, name, out, in)
	case zipped:
		err = w.zip(ctx, name, out, in)
	default:
	}
	return w.settle(name, from, err)
}

// settle says what an error means that came while an archive was read: that the
// rest of it stays unread, or that there is no going on.
func (w *Walker) settle(name string, from *source, err error) error {
	_, stop := errors.AsType[*stopped](err)
	switch {
	case err == nil:
		return nil
	case from.err != nil:
		return from.err // for whoever gives this file
	case stop:
		return err
	case errors.Is(err, ErrLimit):
		w.Unread(name, err)
		return nil
	}
	w.Unread(name, fmt.Errorf("%w: %w", ErrDamaged, err))
	return nil
}

// stopped is an error that ends the walk.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }
func (s *stopped) Unwrap() error { return s.err }

// unpacking counts what comes out of one archive.
type unpacking struct {
	w      *Walker
	packed *source
	depth  int
	bytes  int64
	size   int64 // of the archive, where it is known; else what was read of it
}

// counted counts the bytes of a member.
type counted struct {
	out  *unpacking
	from io.Reader
}

// Read implements io.Reader.
func (c counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.out.bytes += int64(n)
	c.out.w.bytes += int64(n)
	size := max(c.out.size, c.out.packed.read)
	switch limits := c.out.w.Limits; {
	case c.out.w.bytes > limits.Bytes:
		return 0, fmt.Errorf("%w: all archives unpack to more than %d bytes", ErrLimit, limits.Bytes)
	case c.out.bytes > free && c.out.bytes/limits.Ratio > size:
		return 0, fmt.Errorf("%w: it unpacks to more than %d times its length", ErrLimit, limits.Ratio)
	}
	return n, err
}

// inner reads what an archive is made of, which may be an archive itself. Its
// errors are those of r, or end the walk.
func (w *Walker) inner(ctx context.Context, name string, out *unpacking, r io.Reader) error {
	from := &source{ctx: ctx, from: counted{out, r}}
	err := w.read(ctx, name, from, out.depth+1)
	_, stop := errors.AsType[*stopped](err)
	switch {
	case stop:
		return err
	case from.err != nil:
		return from.err
	case err != nil:
		return &stopped{err} // Text's own
	}
	return nil
}

func (w *Walker) tar(ctx context.Context, name string, out *unpacking, in io.Reader) error {
	t := tar.NewReader(in)
	for {
		header, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return w.behind(ctx, name, out, in)
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return err
		}
		if err := w.count(); err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg && header.Typeflag != tar.TypeGNUSparse {
			continue // links and devices hold nothing
		}
		if err := w.inner(ctx, member(name, header.Name), out, t); err != nil {
			return err
		}
	}
}

// behind reads what stands after the end of a tar file: zeros, or something that
// no program for tar would show.
func (w *Walker) behind(ctx context.Context, name string, out *unpacking, in io.Reader) error {
	rest := bufio.NewReader(counted{out, in})
	for {
		b, err := rest.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if b != 0 {
			break
		}
	}
	if err := rest.UnreadByte(); err != nil {
		return err
	}
	return w.inner(ctx, member(name, "(after its end)"), out, rest)
}

func (w *Walker) zip(ctx context.Context, name string, out *unpacking, in io.Reader) error {
	file, err := spool(in)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it is away already
	out.size = file.size
	directory := &atMost{from: file, left: maxDirectory}
	z, err := zip.NewReader(directory, file.size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return err
	}
	directory.left = -1
	for _, f := range z.File {
		if err := w.count(); err != nil {
			return err
		}
		path := member(name, f.Name)
		if !f.Mode().IsRegular() {
			continue
		}
		if f.Flags&1 != 0 {
			w.Unread(path, fmt.Errorf("encrypted, and %w", ErrKind))
			continue
		}
		if err := w.zipped(ctx, path, out, f); err != nil {
			return err
		}
	}
	return nil
}

// zipped reads one member: a damaged one doesn't hide the others.
func (w *Walker) zipped(ctx context.Context, path string, out *unpacking, f *zip.File) error {
	r, err := f.Open()
	if errors.Is(err, zip.ErrAlgorithm) {
		w.Unread(path, fmt.Errorf("method %d is %w", f.Method, ErrKind))
		return nil
	}
	if err == nil {
		err = w.inner(ctx, path, out, r)
		r.Close() //nolint:errcheck // it was only read
	}
	_, stop := errors.AsType[*stopped](err)
	if err == nil || stop || errors.Is(err, ErrLimit) || ctx.Err() != nil {
		return err
	}
	w.Unread(path, fmt.Errorf("%w: %w", ErrDamaged, err))
	return nil
}

func (w *Walker) count() error {
	if w.members++; w.members > w.Limits.Members {
		return fmt.Errorf("%w: all archives have more than %d members", ErrLimit, w.Limits.Members)
	}
	return nil
}

// member is the name of a member, which a stranger chose.
func member(archive, name string) string {
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return archive + Within + name
}

// atMost gives at most so many bytes, as long as left isn't below 0: what a zip
// file says of itself is read at once, into memory.
type atMost struct {
	from io.ReaderAt
	left int
}

// ReadAt implements io.ReaderAt.
func (a *atMost) ReadAt(p []byte, off int64) (int, error) {
	if a.left >= 0 {
		if a.left -= len(p); a.left < 0 {
			return 0, fmt.Errorf("%w: its directory has more than %d bytes", ErrLimit, maxDirectory)
		}
	}
	return a.from.ReadAt(p, off)
}

// spooled is a file that can be read at any place.
type spooled struct {
	io.ReaderAt
	io.Closer

	size int64
}

// spool reads a stream to its end, so that what stands there can be read first.
// It goes to memory, or to a temporary file that has no name.
func spool(in io.Reader) (*spooled, error) {
	begin, err := io.ReadAll(io.LimitReader(in, inMemory))
	if err != nil {
		return nil, err
	}
	if len(begin) < inMemory {
		return &spooled{strings.NewReader(string(begin)), io.NopCloser(nil), int64(len(begin))}, nil
	}
	file, err := os.CreateTemp("", "daypass-*")
	if err != nil {
		return nil, &stopped{fmt.Errorf("unpacking a zip file: %w", err)}
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close() //nolint:errcheck // the first error counts
		return nil, &stopped{fmt.Errorf("unpacking a zip file: %w", err)}
	}
	size, err := io.Copy(writing{file}, io.MultiReader(strings.NewReader(string(begin)), in))
	if err != nil {
		file.Close() //nolint:errcheck // the first error counts
		return nil, err
	}
	return &spooled{file, file, size}, nil
}

// writing marks errors of the temporary file: they are none of the archive's.
type writing struct{ to io.Writer }

// Write implements io.Writer.
func (w writing) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		err = &stopped{fmt.Errorf("unpacking a zip file: %w", err)}
	}
	return n, err
}
