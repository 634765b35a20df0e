package redact

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
	"testing/slogtest"
	"testing/synctest"
	"time"
)

func TestReader(t *testing.T) {
	m, err := New(Config{Values: []string{"password1"}, Mask: "*"})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("user app, password1\n", 10_000) + "passwo"
	want := strings.Repeat("user app, *\n", 10_000) + "passwo"
	for name, source := range map[string]io.Reader{
		"whole": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text)), "with the end": iotest.DataErrReader(strings.NewReader(text)),
	} {
		if err := iotest.TestReader(m.Reader(source), []byte(want)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := io.ReadAll(m.Reader(io.MultiReader(strings.NewReader("a passw"), iotest.ErrReader(io.ErrClosedPipe))))
	if string(got) != "a " || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %q, %v; want what is certain, and the error", got, err)
	}
}

type dsn struct{ URL string }

type valuer struct{}

func (valuer) LogValue() slog.Value { return slog.StringValue("password1") }

func TestHandler(t *testing.T) {
	m, err := New(Config{Values: []string{"password1", "1234567890123456"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, handler := range []func(io.Writer) slog.Handler{
		func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
		func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
	} {
		var out bytes.Buffer
		log := slog.New(m.Handler(handler(&out))).With("url", "redis://:password1@cache").WithGroup("password1-group")
		log.Info("using password1", "id", int64(1234567890123456), "error", fmt.Errorf("dialing: %w", errors.New("bad password1")),
			slog.Group("in", "bytes", []byte("password1"), "struct", dsn{"x:password1@y"}, "pointer", &dsn{"x:password1@y"}, "kept", 12*time.Second),
			"lazy", valuer{}, "password1-key", base64.StdEncoding.EncodeToString([]byte("a password1")))
		got := out.String()
		if strings.Contains(got, "password1") || strings.Contains(got, "1234567890123456") || strings.Contains(got, "cGFzc3dvcmQx") {
			t.Errorf("a secret got through: %s", got)
		}
		if n := strings.Count(got, DefaultMask); n < 11 {
			t.Errorf("%d masks, want 11 or more: %s", n, got)
		}
		if !strings.Contains(got, "12") || !strings.Contains(got, "kept") {
			t.Errorf("what is no secret is gone: %s", got)
		}
	}
}

// A handler with nothing to mask is as good as the one beneath.
func TestHandlerKeepsTheRules(t *testing.T) {
	m, err := New(Config{Values: []string{"password1"}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = slogtest.TestHandler(m.Handler(slog.NewTextHandler(&out, nil)), func() []map[string]any {
		var records []map[string]any
		for line := range strings.Lines(out.String()) {
			records = append(records, parseText(line))
		}
		return records
	})
	if err != nil {
		t.Error(err)
	}
}

// parseText reads what the text handler writes, with words for values.
func parseText(line string) map[string]any {
	record := map[string]any{}
	for field := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(field, "=")
		at := record
		parts := strings.Split(key, ".")
		for _, group := range parts[:len(parts)-1] {
			next, ok := at[group].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[group] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = value
	}
	return record
}

// collector is a writer for two goroutines.
type collector struct {
	texts chan string
}

func (c collector) Write(p []byte) (int, error) {
	c.texts <- string(p)
	return len(p), nil
}

// A prompt that ends as a value begins shows after the deadline, if no more of the
// value shows than three bytes, and the rest of the value is masked all the same.
func TestFlushAfter(t *testing.T) {
	for _, test := range []struct{ write, late, rest, then string }{
		{"Name: ", "", "x", "x"},
		{"Name? pas", "pas", "sword1!", "*!"},
		{"Name? pas\n", "pas\n", "word", "word"},
		{"Name? pass", "", "word1!", "*!"},
		{"Name? pass", "", "ive", "passive"},
		{"Name? dpt", "dpt", "_x", "_x"},
		{"Name? dpt_", "", "-", "dpt_-"},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, err := New(Config{Values: []string{"password1"}, Shape: true, Mask: "*", FlushAfter: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			out := collector{make(chan string, 10)}
			w := m.Writer(out)
			write := func(text string) {
				if _, err := io.WriteString(w, text); err != nil {
					t.Error(err)
				}
			}
			drain := func() (all string) {
				for len(out.texts) > 0 {
					all += <-out.texts
				}
				return all
			}
			write(test.write)
			if got, want := drain(), "Name"; !strings.HasPrefix(got, want) || strings.HasSuffix(got, test.late) != (test.late == "") {
				t.Errorf("%q: %q shows at once", test.write, got)
			}
			time.Sleep(45 * time.Millisecond)
			synctest.Wait()
			if got := drain(); got != test.late {
				t.Errorf("%q: %q shows after the deadline, want %q", test.write, got, test.late)
			}
			write(test.rest)
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			if got := drain(); got != test.then {
				t.Errorf("%q, then %q: got %q, want %q", test.write, test.rest, got, test.then)
			}
		})
	}
}
