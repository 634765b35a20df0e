package redact

import (
	"bytes"
	"io"
	"strings"
)

// Reader masks what is read through it: see [Masker.Reader].
type Reader struct {
	src  io.Reader
	w    *Writer
	out  bytes.Buffer
	buf  []byte
	done bool
}

// Reader gives a reader of what r holds, masked. A Read that has something to give
// never waits for r. It isn't safe for concurrent use.
func (m *Masker) Reader(r io.Reader) *Reader {
	reader := &Reader{src: r}
	m = &Masker{mask: m.mask, values: m.values, shape: m.shape, patterns: m.patterns} // without a timer, which would write meanwhile
	reader.w = m.Writer(&reader.out)
	return reader
}

// Read implements io.Reader. After an error of the reader beneath other than
// io.EOF, what was held back stays so.
func (r *Reader) Read(p []byte) (int, error) {
	for r.out.Len() == 0 && len(p) > 0 {
		if r.done {
			return 0, io.EOF
		}
		if r.buf == nil {
			r.buf = make([]byte, chunk)
		}
		n, err := r.src.Read(r.buf)
		_, _ = r.w.Write(r.buf[:n]) // into memory, which takes everything
		switch {
		case err == io.EOF:
			_ = r.w.Close()
			r.done = true
		case err != nil:
			return 0, err
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	return r.out.Read(p)
}

// String masks a text that is whole.
func (m *Masker) String(text string) string {
	var out strings.Builder
	out.Grow(len(text))
	w := m.Writer(&out)
	_, _ = w.Write([]byte(text)) // into memory, which takes everything
	_ = w.Close()
	return out.String()
}
