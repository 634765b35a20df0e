package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// serve gives a client of a broker that answers by a function, and its address.
func serve(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	c, err := New(Config{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shout answers a text with the same in capitals, as it comes.
func shout(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	w.Header().Set("Content-Type", "application/octet-stream")
	buf := make([]byte, 1<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			_ = control.Flush()
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

func refuse(w http.ResponseWriter, status int, code api.Code) {
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"code":"`+string(code)+`","detail":"d"}`)
}

// What was sent comes back before more is sent: nobody waits for the end.
func TestRedactStreamsBothWays(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		shout(w, r)
	})
	text, in := io.Pipe()
	opened := make(chan io.ReadCloser, 1)
	go func() {
		out, err := c.Redact(t.Context(), token, text)
		if err != nil {
			t.Error(err)
		}
		opened <- out
	}()
	if _, err := io.WriteString(in, "first\n"); err != nil {
		t.Fatal(err)
	}
	out := <-opened
	defer out.Close() //nolint:errcheck // the test's own
	lines := bufio.NewReader(out)
	for _, line := range []string{"first\n", "second\n", "third\n"} {
		if got, err := lines.ReadString('\n'); err != nil || got != strings.ToUpper(line) {
			t.Fatalf("got %q, %v", got, err)
		}
		if line != "third\n" {
			next := map[string]string{"first\n": "second\n", "second\n": "third\n"}[line]
			if _, err := io.WriteString(in, next); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = in.Close()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	r := asked.Load()
	if r.Method != http.MethodPost || r.URL.Path != api.PathRedact || r.Header.Get("Authorization") != "Bearer "+token || r.ContentLength != -1 {
		t.Errorf("%s %s, length %d", r.Method, r.URL, r.ContentLength)
	}
}

// An answer that ends before the text is no success, however politely it ends.
func TestRedactFailsWhereTheAnswerIsNotWhole(t *testing.T) {
	for name, end := range map[string]func(http.ResponseWriter){
		"breaks off": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"ends early": func(http.ResponseWriter) {},
		"says too much": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, "more")
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				control := http.NewResponseController(w)
				_ = control.EnableFullDuplex()
				buf := make([]byte, 5)
				_, _ = io.ReadFull(r.Body, buf)
				_, _ = w.Write(buf)
				_ = control.Flush()
				_ = control.SetReadDeadline(time.Unix(1, 0)) // or the server would wait for the rest before it hangs up
				end(w)
			})
			text, in := io.Pipe()
			defer in.Close() //nolint:errcheck // the test's own
			go func() { _, _ = io.WriteString(in, "first and more") }()
			out, err := c.Redact(t.Context(), token, text)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close() //nolint:errcheck // the test's own
			got, err := io.ReadAll(out)
			if err == nil || !strings.HasPrefix(string(got), "first") {
				t.Errorf("got %q, %v, want an error after the first five bytes", got, err)
			}
		})
	}
}

func TestRedactTellsWhyTheTextBroke(t *testing.T) {
	c := serve(t, shout)
	broken := errors.New("disk on fire")
	out, err := c.Redact(t.Context(), token, io.MultiReader(strings.NewReader("text"), iotest.ErrReader(broken)))
	if err == nil {
		_, err = io.ReadAll(out)
		_ = out.Close()
	}
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// A broker that answers before it reads gets the text all the same.
func TestRedactWhereTheAnswerBeginsFirst(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		shout(w, r)
	})
	out, err := c.Redact(t.Context(), token, strings.NewReader("text"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() //nolint:errcheck // the test's own
	if got, err := io.ReadAll(out); string(got) != "TEXT" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A refusal that passes costs nothing of the text, whether it was read or not.
func TestRedactTriesAgain(t *testing.T) {
	for _, read := range []int{0, 3, 100_000} {
		var asked atomic.Int32
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) <= 2 {
				_, _ = io.ReadFull(r.Body, make([]byte, read))
				refuse(w, 503, api.CodeUnavailable)
				return
			}
			shout(w, r)
		})
		want := strings.Repeat("text", 50_000)
		out, err := c.Redact(t.Context(), token, strings.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(out)
		_ = out.Close()
		if string(got) != strings.ToUpper(want) || err != nil || asked.Load() != 3 {
			t.Errorf("%d of %d bytes, %v after %d tries", len(got), len(want), err, asked.Load())
		}
	}
}

func TestRedactIsNotRepeatedWithoutTheBeginning(t *testing.T) {
	var asked atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.ReadFull(r.Body, make([]byte, maxKept+1))
		refuse(w, 503, api.CodeUnavailable)
	})
	_, err := c.Redact(t.Context(), token, strings.NewReader(strings.Repeat("x", 2*maxKept)))
	if problem, ok := errors.AsType[*api.Problem](err); !ok || problem.Code != api.CodeUnavailable || asked.Load() != 1 {
		t.Errorf("got %v after %d tries", err, asked.Load())
	}
}

// What an ended try was still reading isn't lost to the next.
func TestSourceSurvivesATryThatStillReads(t *testing.T) {
	text, in := io.Pipe()
	s := &source{from: text}
	stale, fresh := &sending{source: s}, &sending{source: s}
	read := make(chan string)
	for _, try := range []*sending{stale, fresh} {
		go func() {
			buf := make([]byte, 100)
			n, err := try.Read(buf)
			if err != nil {
				t.Error(err)
			}
			read <- string(buf[:n])
		}()
	}
	_, _ = io.WriteString(in, "text")
	if a, b := <-read, <-read; a != "text" || b != "text" {
		t.Errorf("read %q and %q", a, b)
	}
	s.settle()
	go func() { _, _ = io.WriteString(in, "more") }()
	buf := make([]byte, 100)
	if n, err := fresh.Read(buf); string(buf[:n]) != "more" || err != nil {
		t.Errorf("then read %q, %v", buf[:n], err)
	}
	if _, err := stale.Read(buf); !errors.Is(err, errLost) {
		t.Errorf("got %v", err)
	}
}

func TestRedactRefusals(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   api.Code
	}{
		{"denied", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, api.CodeNotAllowed) }, api.CodeNotAllowed},
		{"a portal", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, "<html>log in")
		}, CodeUnexpected},
		{"an echo of the token", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.Header.Get("Authorization"), http.StatusTeapot)
		}, CodeUnexpected},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, test.answer)
			_, err := c.Redact(t.Context(), token, strings.NewReader("text"))
			problem, ok := errors.AsType[*api.Problem](err)
			if !ok || problem.Code != test.want || strings.Contains(err.Error(), token) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLeaks(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		if r.URL.Path != api.PathLeaks || string(text) != "a log" {
			t.Errorf("%s %q", r.URL, text)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"leaks":[{"lease_id":"lse_1","kind":"postgres","live":true,"offset":2,"length":3,"revoked":`+
			map[string]string{"": "false", "true": "true"}[r.URL.Query().Get("revoke")]+`}],"bytes":5,"new":1}`)
		if source := r.URL.Query().Get("source"); source != "a log & more" {
			t.Errorf("the source is %q", source)
		}
	})
	for _, revoke := range []bool{false, true} {
		found, err := c.Leaks(t.Context(), token, strings.NewReader("a log"), LeakSearch{Revoke: revoke, Source: "a log & more"})
		if err != nil || found.Bytes != 5 || len(found.Leaks) != 1 || found.Leaks[0].LeaseID != "lse_1" || found.Leaks[0].Revoked != revoke {
			t.Errorf("got %+v, %v", found, err)
		}
	}
}

// A watch tells of every set, comes back when it was cut off, and ends when its
// reader wants no more or the broker refuses for good.
func TestWatchRedactionRules(t *testing.T) {
	var asked atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != api.PathRedactionRules || r.URL.Query().Get("watch") != "true" {
			t.Errorf("asked for %s", r.URL)
		}
		switch asked.Add(1) {
		case 1:
			_, _ = io.WriteString(w, strings.Join([]string{
				`{"type":"rules","rules":[{"id":"b","pattern":"b+"},{"id":"a","pattern":"a+"}]}`,
				`{"type":"heartbeat"}`, ``, `{"type":"of a later version"}`,
				`{"type":"changed","rules":[{"id":"c","pattern":"c+"}],"removed":["a","b"]}`, ``,
			}, "\n"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			refuse(w, 503, api.CodeUnavailable)
		case 3:
			_, _ = io.WriteString(w, `{"type":"rules","rules":[{"id":"d","pattern":"d+"}]}`+"\n"+`{"type":"end","reason":"shutdown"}`+"\n")
		default:
			refuse(w, 401, api.CodeInvalidToken)
		}
	})
	var got []string
	err := c.WatchRedactionRules(t.Context(), token, func(rules api.RuleList) error {
		text := ""
		for _, rule := range rules.Rules {
			text += rule.ID
		}
		got = append(got, text)
		return nil
	})
	problem, ok := errors.AsType[*api.Problem](err)
	if !ok || problem.Code != api.CodeInvalidToken || !slices.Equal(got, []string{"ab", "c", "d"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWatchEndsWithItsReader(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"type":"rules"}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	enough := errors.New("enough")
	if err := c.WatchRedactionRules(t.Context(), token, func(api.RuleList) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := c.WatchRedactionRules(ctx, token, func(api.RuleList) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A stream that the broker lets hang ends; one whose text takes its time doesn't.
func TestStreamHangs(t *testing.T) {
	var ended error
	s := &stream{idle: time.NewTimer(time.Hour), source: &source{}}
	s.source.waiting.Store(true)
	s.tick(func(err error) { ended = err })
	if ended != nil {
		t.Errorf("ended while the text was waited for: %v", ended)
	}
	s.source.waiting.Store(false)
	s.tick(func(err error) { ended = err })
	if !errors.Is(ended, errIdle) {
		t.Errorf("got %v", ended)
	}
}
