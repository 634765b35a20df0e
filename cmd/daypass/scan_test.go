package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/leaks"
)

// fakeLeaks answers where tokens stand in what it is sent.
type fakeLeaks struct {
	sent  []int
	fault error
}

// Leaks implements leaksCaller.
func (f *fakeLeaks) Leaks(_ context.Context, _ string, r io.Reader, _ client.LeakSearch) (*api.LeaksResponse, error) {
	if f.fault != nil {
		return nil, f.fault
	}
	answer := &api.LeaksResponse{}
	s := leaks.New(leaks.Config{Tokens: true}).Stream(func(h leaks.Hit) error {
		answer.Leaks = append(answer.Leaks, api.Leak{Kind: string(h.Value), Offset: h.Offset, Length: h.Length})
		return nil
	})
	n, err := io.Copy(s, r)
	answer.Bytes = n
	f.sent = append(f.sent, int(n))
	return answer, errors.Join(err, s.Close())
}

const exampleToken = "dpp_0EXAMPLEexampleEXAMPLE123451rMpPd" // its checksum holds

// TestScanSource: what is on record says what was scanned, and never more than is kept.
func TestScanSource(t *testing.T) {
	many := slices.Repeat([]string{"a/long/path"}, 100)
	for want, flags := range map[string]scanFlags{
		"(standard input)":                   {paths: []string{"-"}},
		"build.log, dist/, app.tar, git ../": {paths: []string{"build.log", "dist/"}, archives: []string{"app.tar"}, repositories: []string{"../"}},
		"run 7":                              {paths: []string{"-"}, from: "run 7"},
		strings.Join(many, ", ")[:maxSource]: {paths: many},
	} {
		if got := flags.source(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestBatches: wherever the texts are cut, each hit is told once, where it stands.
func TestBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.SampledFrom([]string{
			"", "a\n", strings.Repeat("line\n", 30_000), strings.Repeat("x", 70_000), exampleToken, "\n" + exampleToken + "\n\n" + exampleToken,
			strings.Repeat("y\n", 40_000) + exampleToken, strings.Repeat(exampleToken+"\n", 3000),
		}), 1, 8).Draw(t, "texts")
		fake := &fakeLeaks{}
		s := &scan{seen: map[scanKey]bool{}}
		w := newWholeSearch(&leakAsking{client: fake}, s)
		w.size = rapid.IntRange(2*overlap, 5*overlap).Draw(t, "size")
		want := 0
		for i, text := range texts {
			if err := w.search(t.Context(), scanText{path: string(rune('a' + i))}, strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			want += strings.Count(text, exampleToken)
		}
		if err := w.end(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.found) != want {
			t.Fatalf("%d were found, want %d", len(s.found), want)
		}
		for _, l := range s.found {
			text := texts[l.Path[0]-'a']
			if text[l.Offset:int(l.Offset)+l.Length] != exampleToken || strings.Count(text[:l.Offset], "\n")+1 != l.Line {
				t.Fatalf("%s:%d, at %d", l.Path, l.Line, l.Offset)
			}
		}
		for _, n := range fake.sent {
			if n > w.size {
				t.Fatalf("%d bytes were sent at once", n)
			}
		}
	})
}

func TestABrokerThatFails(t *testing.T) {
	own := errors.New("away")
	w := newWholeSearch(&leakAsking{client: &fakeLeaks{fault: own}}, &scan{})
	w.size = 2 * overlap
	if err := w.search(t.Context(), scanText{}, strings.NewReader(strings.Repeat("x", 3*overlap))); !errors.Is(err, own) {
		t.Errorf("got %v", err)
	}
}

// TestLines: lines are right however long ago they were.
func TestLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Repeat(rapid.SampledFrom([]string{"\n", "ab\n", "x", strings.Repeat("y", 300) + "\n"}).Draw(t, "line"), rapid.IntRange(1, 20_000).Draw(t, "lines"))
		var lines lineCounter
		piece := rapid.IntRange(1000, 100_000).Draw(t, "piece")
		for rest := text; len(rest) > 0; {
			n := min(piece, len(rest))
			if _, err := io.WriteString(&lines, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			written := len(text) - len(rest)
			at := rapid.IntRange(max(0, written-reach), written).Draw(t, "at")
			if want := strings.Count(text[:at], "\n") + 1; lines.line(int64(at)) != want {
				t.Fatalf("byte %d is in line %d, want %d", at, lines.line(int64(at)), want)
			}
		}
	})
}

// run runs one command line, and gives the exit code and what it wrote.
func runScan(t *testing.T, args ...string) (code int, report scanReport, said string) {
	t.Helper()
	var out, err bytes.Buffer
	p := &program{stdin: os.Stdin, stdout: &out, stderr: &err}
	code = p.main(t.Context(), append([]string{"scan", "--local", "-o", "json"}, args...))
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			t.Fatal(err)
		}
	}
	return code, report, err.String()
}

// TestImage: a secret in a layer of a container image is found though the next
// layer removes the file, and the one in the image's configuration too.
func TestImage(t *testing.T) {
	pack := func(files ...[2]string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, f := range files {
			if err := w.WriteHeader(&tar.Header{Name: f[0], Size: int64(len(f[1])), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, f[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	_, err := io.WriteString(z, pack([2]string{"app/.env", "A=1\nPASSWORD=" + exampleToken + "\n"}))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	image := pack(
		[2]string{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`}, [2]string{"index.json", `{}`},
		[2]string{"blobs/sha256/config", `{"config":{"Env":["P=` + exampleToken + `"]}}`},
		[2]string{"blobs/sha256/one", layer.String()}, [2]string{"blobs/sha256/two", pack([2]string{"app/.wh..env", ""})},
	)
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, []byte(image), 0o600); err != nil {
		t.Fatal(err)
	}
	code, report, said := runScan(t, "--archive", file)
	if code != exitFailed || len(report.Leaks) != 2 || !report.Complete || report.Texts != 5 {
		t.Fatalf("exit code %d, %+v, %s", code, report, said)
	}
	if l := report.Leaks[1]; l.Path != file+"!blobs/sha256/one!app/.env" || l.Line != 2 {
		t.Errorf("found at %s:%d", l.Path, l.Line)
	}
}

// TestBomb: what unpacks without end is cut, told, and fails the scan.
func TestBomb(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, err := z.Write(make([]byte, 20<<20))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bomb.gz")
	if err := os.WriteFile(file, bomb.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	code, report, said := runScan(t, file)
	if code != exitFailed || report.Complete || report.Bytes > 17<<20 || !strings.Contains(said, "not read: "+file+": a limit was reached") {
		t.Errorf("exit code %d, %d bytes, %s", code, report.Bytes, said)
	}
	if code, _, _ := runScan(t, "--allow-unread", file); code != 0 {
		t.Errorf("exit code %d though it is allowed", code)
	}
}

// TestFolder: nothing outside of a folder is read, and nothing waits for ever.
func TestFolder(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	for _, f := range []string{filepath.Join(outside, "secret"), filepath.Join(dir, "in", "a")} {
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(exampleToken), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Symlink(outside, filepath.Join(dir, "folder")), os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "file")),
		os.Symlink("in/a", filepath.Join(dir, "inside")))
	if err != nil {
		t.Fatal(err)
	}
	code, report, _ := runScan(t, dir)
	if code != exitFailed || len(report.Leaks) != 1 || report.Leaks[0].Path != filepath.Join(dir, "in", "a") || len(report.Notes) != 2 {
		t.Errorf("exit code %d, %+v", code, report)
	}
	if code, _, said := runScan(t, os.DevNull); code != exitFailed || !strings.Contains(said, "no regular file") {
		t.Errorf("a device: exit code %d, %s", code, said)
	}
}
