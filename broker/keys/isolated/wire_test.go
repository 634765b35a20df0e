package isolated

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/keys"
)

func drawText(t *rapid.T, name string) string { return rapid.StringN(0, 20, 40).Draw(t, name) }

func drawBytes(t *rapid.T, name string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, name)
}

// TestMessagesRoundTrip: what was sent is what arrives.
func TestMessagesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := request{
			number: rapid.Uint64().Draw(t, "number"), verb: verb(rapid.IntRange(1, int(verbEnd)-1).Draw(t, "verb")),
			timeout: time.Duration(rapid.Int64Min(0).Draw(t, "timeout")), bits: rapid.Uint32().Draw(t, "bits"),
			key:  keyRef{label: drawText(t, "label"), algorithm: drawText(t, "algorithm"), id: drawText(t, "id"), objectID: drawText(t, "object")},
			opts: signOptions{hash: rapid.Byte().Draw(t, "hash"), padding: rapid.Byte().Draw(t, "padding"), salt: rapid.Int32().Draw(t, "salt")},
			data: drawBytes(t, "data"), place: drawBytes(t, "place"),
		}
		frame, err := newFrameReader(bytes.NewReader(must(sent.encode()))).next()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRequest(frame)
		if err != nil || !reflect.DeepEqual(*got, sent) {
			t.Fatalf("%+v became %+v, %v", sent, got, err)
		}
		answered := answer{
			number: sent.number, verb: sent.verb, label: sent.key.label, keyID: sent.key.id, faults: sent.bits,
			text: drawText(t, "text"), public: sent.data, data: sent.place,
		}
		for range rapid.IntRange(0, 3).Draw(t, "list") {
			answered.list = append(answered.list, keys.Info{Label: drawText(t, "l"), Algorithm: drawText(t, "a"), KeyID: drawText(t, "k")})
		}
		encoded := must(answered.encode())[lengthSize:]
		gotAnswer, err := decodeAnswer(encoded)
		if err != nil || !reflect.DeepEqual(*gotAnswer, answered) {
			t.Fatalf("%+v became %+v, %v", answered, gotAnswer, err)
		}
		// Cut anywhere, or with something behind it, it is none.
		cut := rapid.IntRange(0, len(encoded)-1).Draw(t, "cut")
		if a, err := decodeAnswer(encoded[:cut]); err == nil {
			t.Fatalf("cut at %d it is %+v", cut, a)
		}
		if a, err := decodeAnswer(append(encoded, 0)); err == nil {
			t.Fatalf("with a byte more it is %+v", a)
		}
	})
}

// FuzzFrame: whatever comes over the pipe, it is read without a panic, bounded, and
// what is taken for a message is written back as it came.
func FuzzFrame(f *testing.F) {
	f.Add(must((&request{verb: verbSign, key: keyRef{"label", keys.ES256, "id", "object"}, data: make([]byte, 32)}).encode()))
	f.Add(must((&answer{verb: verbList, list: []keys.Info{{Label: "a"}, {KeyID: "b"}}}).encode()))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 1, 0})
	f.Add(binary.BigEndian.AppendUint32(nil, maxFrame+1))
	f.Fuzz(func(t *testing.T, stream []byte) {
		frames := newFrameReader(bytes.NewReader(stream))
		for {
			frame, err := frames.next()
			if err != nil {
				if !errors.Is(err, errFrame) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("an error of another kind: %v", err)
				}
				return
			}
			if len(frame) > maxFrame {
				t.Fatalf("a frame of %d bytes", len(frame))
			}
			if r, err := decodeRequest(frame); err == nil && r.timeout >= 0 {
				if back := must(r.encode()); !bytes.Equal(back[lengthSize:], frame) && binary.BigEndian.Uint64(frame[9:]) < 1<<63 {
					t.Fatalf("%x became %x", frame, back)
				}
			}
			if a, err := decodeAnswer(frame); err == nil {
				if back := must(a.encode()); !bytes.Equal(back[lengthSize:], frame) {
					t.Fatalf("%x became %x", frame, back)
				}
				_ = a.err()
			}
		}
	})
}

// blocking takes writes one after the other, each when it is let.
type blocking struct {
	let    chan struct{}
	begun  chan int
	writes [][]byte
}

func (b *blocking) Write(p []byte) (int, error) {
	b.begun <- len(p)
	<-b.let
	b.writes = append(b.writes, bytes.Clone(p))
	return len(p), nil
}

// TestWriterBatches: frames that come while one is written go out in one write.
func TestWriterBatches(t *testing.T) {
	out := &blocking{let: make(chan struct{}), begun: make(chan int)}
	w := &frameWriter{out: out}
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := w.write([]byte("first ")); err != nil {
			t.Error(err)
		}
	})
	<-out.begun
	for range 5 {
		if err := w.write([]byte("more ")); err != nil { // returns at once: somebody writes
			t.Error(err)
		}
	}
	out.let <- struct{}{}
	if n := <-out.begun; n != len("more ")*5 {
		t.Errorf("the second write has %d bytes", n)
	}
	out.let <- struct{}{}
	writing.Wait()
	if got := string(bytes.Join(out.writes, []byte("|"))); got != "first |more more more more more " {
		t.Errorf("wrote %q", got)
	}
}

// TestOutput: however a module's words are cut into writes, its PIN is in no line.
func TestOutput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := &logged{}
		o := &output{logger: slog.New(slog.NewTextHandler(log, nil)), secret: testPIN, now: func() time.Time { return time.Time{} }}
		text := strings.Repeat("y", rapid.IntRange(0, 2*maxLine).Draw(t, "before")) + testPIN + strings.Repeat("z", rapid.IntRange(0, 100).Draw(t, "after")) + "\nnext\n"
		for rest := []byte(text); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "part")
			if written, err := o.Write(rest[:n]); written != n || err != nil {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		if strings.Contains(log.String(), testPIN[:5]) || !strings.Contains(log.String(), "line=next cut=false") {
			t.Fatalf("logged:\n%s", log)
		}
	})
}
