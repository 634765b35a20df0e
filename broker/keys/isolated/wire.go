package isolated

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/keys"
)

const (
	// maxFrame bounds a message: what is signed are digests, and what is sealed are
	// keys and small values.
	maxFrame = 1 << 20
	// maxInFlight bounds the calls under way in one child. A token does a few at a
	// moment; the rest of them wait in its process.
	maxInFlight = 64
	// maxText bounds the text of an error that comes from the child.
	maxText    = 4 << 10
	lengthSize = 4
)

// errFrame says that what came over the pipe is no message.
var errFrame = errors.New("not a message of the module's host")

// verb is what a call asks for.
type verb uint8

const (
	verbHello verb = iota + 1
	verbOpenSigner
	verbMakeSigner
	verbSign
	verbOpenSealer
	verbMakeSealer
	verbSeal
	verbOpen
	verbDestroy
	verbList
	verbEnd // no verb
)

// makes says whether the call may take the time that a key needs to be made.
func (v verb) makes() bool { return v == verbHello || v == verbMakeSigner || v == verbMakeSealer }

// keyRef names a key: a child that doesn't have it open opens it by its label, and
// uses it only if it is the one of that id.
type keyRef struct {
	label     string
	algorithm string // "": a sealing key
	id        string // "": whichever has the label
	objectID  string // CKA_ID that it has to have; "": any
}

// request is what the broker asks.
type request struct {
	number  uint64
	verb    verb
	timeout time.Duration // what is left of the caller's time; 0: no limit of its own
	key     keyRef
	bits    uint32 // of an RSA key that is made
	opts    signOptions
	data    []byte // to be signed, sealed, or opened
	place   []byte // associated data
}

// answer is what the child answers. It names the call and the key, and the broker
// checks both.
type answer struct {
	number uint64
	verb   verb
	label  string
	keyID  string
	faults uint32 // which of sentinels the error is; see faults.go
	text   string // of the error; "": it went well
	public []byte // PKIX, of a key pair
	data   []byte
	list   []keys.Info
}

func (r *request) encode() ([]byte, error) {
	b := make([]byte, lengthSize, 256+len(r.data)+len(r.place))
	b = binary.BigEndian.AppendUint64(b, r.number)
	b = append(b, byte(r.verb))
	b = binary.BigEndian.AppendUint64(b, uint64(max(r.timeout, 0)))
	b = appendText(b, r.key.label, r.key.algorithm, r.key.id, r.key.objectID)
	b = binary.BigEndian.AppendUint32(b, r.bits)
	b = append(b, r.opts.hash, r.opts.padding)
	b = binary.BigEndian.AppendUint32(b, uint32(r.opts.salt)) //nolint:gosec // the bits of it, read back the same way
	b = appendText(b, r.data, r.place)
	return finish(b)
}

func decodeRequest(frame []byte) (*request, error) {
	c := cursor{rest: frame}
	r := &request{number: c.uint64(), verb: verb(c.byte())}
	r.timeout = time.Duration(min(c.uint64(), math.MaxInt64))
	r.key = keyRef{label: c.text(), algorithm: c.text(), id: c.text(), objectID: c.text()}
	r.bits = c.uint32()
	r.opts = signOptions{hash: c.byte(), padding: c.byte(), salt: int32(c.uint32())} //nolint:gosec // as it was written
	r.data, r.place = c.bytes(), c.bytes()
	return r, c.end(r.verb)
}

func (a *answer) encode() ([]byte, error) {
	b := make([]byte, lengthSize, 256+len(a.data))
	b = binary.BigEndian.AppendUint64(b, a.number)
	b = append(b, byte(a.verb))
	b = appendText(b, a.label, a.keyID)
	b = binary.BigEndian.AppendUint32(b, a.faults)
	b = appendText(b, a.text[:min(len(a.text), maxText)])
	b = appendText(b, a.public, a.data)
	b = binary.BigEndian.AppendUint32(b, uint32(len(a.list))) //nolint:gosec // a token holds fewer
	for _, info := range a.list {
		b = appendText(b, info.Label, info.Algorithm, info.KeyID)
	}
	return finish(b)
}

func decodeAnswer(frame []byte) (*answer, error) {
	c := cursor{rest: frame}
	a := &answer{number: c.uint64(), verb: verb(c.byte()), label: c.text(), keyID: c.text(), faults: c.uint32(), text: c.text()}
	a.public, a.data = c.bytes(), c.bytes()
	for n := c.uint32(); n > 0 && !c.failed; n-- {
		a.list = append(a.list, keys.Info{Label: c.text(), Algorithm: c.text(), KeyID: c.text()})
	}
	if len(a.text) > maxText {
		return nil, errFrame
	}
	return a, c.end(a.verb)
}

// appendText appends each part behind its length.
func appendText[T string | []byte](b []byte, parts ...T) []byte {
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p))) //nolint:gosec // finish refuses what is too long
		b = append(b, p...)
	}
	return b
}

// finish writes the frame's length, for which it has left room.
func finish(b []byte) ([]byte, error) {
	size := len(b) - lengthSize
	if size > maxFrame {
		clear(b)
		return nil, fmt.Errorf("a message of %d bytes is larger than %d", size, maxFrame)
	}
	binary.BigEndian.PutUint32(b, uint32(size)) //nolint:gosec // bounded
	return b, nil
}

// cursor reads a frame. What is missing reads as zero, and fails at the end.
type cursor struct {
	rest   []byte
	failed bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.failed, c.rest = true, nil
		return make([]byte, min(n, 8))
	}
	taken := c.rest[:n]
	c.rest = c.rest[n:]
	return taken
}

func (c *cursor) byte() byte     { return c.take(1)[0] }
func (c *cursor) uint32() uint32 { return binary.BigEndian.Uint32(c.take(4)) }
func (c *cursor) uint64() uint64 { return binary.BigEndian.Uint64(c.take(8)) }

// text and bytes copy: the frame's memory is used again.
func (c *cursor) text() string  { return string(c.part()) }
func (c *cursor) bytes() []byte { return bytes.Clone(c.part()) }

func (c *cursor) part() []byte {
	n := c.uint32()
	if uint64(n) > uint64(len(c.rest)) {
		c.failed, c.rest = true, nil
		return nil
	}
	return c.take(int(n))
}

func (c *cursor) end(v verb) error {
	if c.failed || len(c.rest) > 0 || v == 0 || v >= verbEnd {
		return errFrame
	}
	return nil
}

// frameReader reads frames. What it returns is overwritten by the next.
type frameReader struct {
	in     *bufio.Reader
	buffer []byte
}

func newFrameReader(in io.Reader) *frameReader { return &frameReader{in: bufio.NewReader(in)} }

// next is io.EOF between two frames only.
func (r *frameReader) next() ([]byte, error) {
	clear(r.buffer) // it may have held what was unsealed
	var length [lengthSize]byte
	if _, err := io.ReadFull(r.in, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxFrame {
		return nil, fmt.Errorf("%w: it says that it has %d bytes, more than %d", errFrame, size, maxFrame)
	}
	if int(size) > cap(r.buffer) {
		r.buffer = make([]byte, size)
	}
	r.buffer = r.buffer[:size]
	if _, err := io.ReadFull(r.in, r.buffer); err != nil {
		return nil, fmt.Errorf("%w: it is cut off: %w", errFrame, io.ErrUnexpectedEOF)
	}
	return r.buffer, nil
}

// frameWriter writes frames of many goroutines. Whoever finds nobody writing
// writes, its own frame and those that come while it does: a queue that is empty
// costs no wait, and a full one few calls of the system.
type frameWriter struct {
	out io.Writer

	mu             sync.Mutex
	pending, spare []byte
	writing        bool
	err            error
}

func (w *frameWriter) write(frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, frame...)
	clear(frame)
	if w.writing {
		return w.err
	}
	w.writing = true
	for len(w.pending) > 0 && w.err == nil {
		batch := w.pending
		w.pending = w.spare[:0]
		w.mu.Unlock()
		_, err := w.out.Write(batch)
		clear(batch)
		w.mu.Lock()
		w.spare, w.err = batch, err
	}
	w.writing = false
	return w.err
}
