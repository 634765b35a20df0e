package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// files are members, by name.
type files map[string]string

func tarOf(t testing.TB, f files) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(f[name])), Mode: 0o644, Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zipOf(t testing.TB, f files) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		out, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, f[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func gzipOf(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, text)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// bzip2Of is "hello from bzip2\n": Go unpacks it, and packs none.
func bzip2Of(t testing.TB) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString("QlpoOTFBWSZTWVXpr+UAAAPZgAAQQAAQABNm0BAgACKaMmnpH6hAAA0q9CbgvywBYu5IpwoSCr01/KA=")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// walk gives what a file holds, and what was not read of it.
func walk(t testing.TB, limits Limits, file string) (texts files, unread map[string]error) {
	t.Helper()
	texts, unread = files{}, map[string]error{}
	w := &Walker{
		Limits: limits,
		Text: func(name string, r io.Reader) error {
			b, err := io.ReadAll(r)
			texts[name] = string(b)
			return err
		},
		Unread: func(name string, why error) { unread[name] = why },
	}
	if err := w.Read(t.Context(), "f", strings.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	return texts, unread
}

func TestEverythingIsUnpacked(t *testing.T) {
	layer := tarOf(t, files{"app/.env": "layer", "app/.wh.old": ""})
	image := tarOf(t, files{
		"manifest.json":         `[{"Config":"c"}]`,
		"blobs/sha256/aaaa":     gzipOf(t, layer),
		"blobs/sha256/bbbb":     layer,
		"legacy/layer.tar":      layer,
		"blobs/sha256/zstd":     "\x28\xb5\x2f\xfdrest",
		"blobs/sha256/a config": `{"config":{"Env":["T=x"]}}`,
	})
	for name, test := range map[string]struct {
		file string
		want files
	}{
		"text":   {"plain", files{"f": "plain"}},
		"empty":  {"", files{"f": ""}},
		"binary": {"\x7fELF\x00\x00", files{"f": "\x7fELF\x00\x00"}},
		"gzip":   {gzipOf(t, "a") + gzipOf(t, "b"), files{"f": "ab"}},
		"zip":    {zipOf(t, files{"a/b": "1", "c.gz": gzipOf(t, "2")}), files{"f!a/b": "1", "f!c.gz": "2"}},
		"bzip2":  {bzip2Of(t), files{"f": "hello from bzip2\n"}},
		"tar":    {tarOf(t, files{"a": "1", "b.zip": zipOf(t, files{"c": "2"})}), files{"f!a": "1", "f!b.zip!c": "2"}},
		"tgz":    {gzipOf(t, tarOf(t, files{"a": "1"})), files{"f!a": "1"}},
		"two":    {tarOf(t, files{"a": "1"}) + tarOf(t, files{"a": "2"}), files{"f!a": "1", "f!(after its end)!a": "2"}},
		"behind": {tarOf(t, files{"a": "1"}) + "hidden", files{"f!a": "1", "f!(after its end)": "hidden"}},
		"image": {image, files{
			"f!manifest.json": `[{"Config":"c"}]`, "f!blobs/sha256/a config": `{"config":{"Env":["T=x"]}}`,
			"f!blobs/sha256/aaaa!app/.env": "layer", "f!blobs/sha256/aaaa!app/.wh.old": "",
			"f!blobs/sha256/bbbb!app/.env": "layer", "f!blobs/sha256/bbbb!app/.wh.old": "",
			"f!legacy/layer.tar!app/.env": "layer", "f!legacy/layer.tar!app/.wh.old": "",
		}},
	} {
		texts, unread := walk(t, Limits{}, test.file)
		if !maps.Equal(texts, test.want) {
			t.Errorf("%s: got %q, want %q", name, texts, test.want)
		}
		if name == "image" {
			if why := unread["f!blobs/sha256/zstd"]; len(unread) != 1 || !errors.Is(why, ErrKind) || !strings.Contains(why.Error(), "zstd") {
				t.Errorf("%s: unread %v", name, unread)
			}
		} else if len(unread) != 0 {
			t.Errorf("%s: unread %v", name, unread)
		}
	}
}

// TestLimits: what strangers pack ends, and is told.
func TestLimits(t *testing.T) {
	zeros := strings.Repeat("\x00", 24<<20)
	bomb := gzipOf(t, zeros)
	deep := "text"
	for range 12 {
		deep = gzipOf(t, deep)
	}
	for name, test := range map[string]struct {
		limits Limits
		file   string
		texts  int    // that begin
		unread string // the name
	}{
		"ratio":           {Limits{}, bomb, 1, "f"},
		"ratio in a zip":  {Limits{}, zipOf(t, files{"a": "1", "b": zeros, "c": "3"}), 2, "f"},
		"ratio in a tar":  {Limits{}, tarOf(t, files{"a": "1", "b": bomb, "c": "3"}), 3, "f!b"},
		"depth":           {Limits{}, deep, 0, "f"},
		"depth of others": {Limits{Depth: 1}, tarOf(t, files{"a": "1", "b": gzipOf(t, "2")}), 1, "f!b"},
		"members":         {Limits{Members: 2}, tarOf(t, files{"a": "1", "b": "2", "c": "3"}), 2, "f"},
		"members of zip":  {Limits{Members: 2}, zipOf(t, files{"a": "1", "b": "2", "c": "3"}), 2, "f"},
		"bytes":           {Limits{Bytes: 100}, gzipOf(t, strings.Repeat("0123456789", 11)), 1, "f"},
	} {
		texts, unread := walk(t, test.limits, test.file)
		if why := unread[test.unread]; len(texts) != test.texts || !errors.Is(why, ErrLimit) {
			t.Errorf("%s: %d texts, want %d; unread %v", name, len(texts), test.texts, unread)
		}
		for name, text := range texts {
			if len(text) > free+1<<20 {
				t.Errorf("%s: %d bytes", name, len(text))
			}
		}
	}
}

// TestDirectoryOfAZip: what is read into memory at once is bounded.
func TestDirectoryOfAZip(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := range 400 {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(i), Comment: strings.Repeat("x", 60<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if texts, unread := walk(t, Limits{}, b.String()); len(texts) != 0 || !errors.Is(unread["f"], ErrLimit) {
		t.Errorf("%d texts, unread %v", len(texts), unread)
	}
}

func TestDamage(t *testing.T) {
	whole := gzipOf(t, strings.Repeat("a text that is long enough ", 100))
	tared := tarOf(t, files{"a": "1", "b": strings.Repeat("x", 2000)})
	broken := []byte(zipOf(t, files{"a": "one", "b": "two"}))
	broken[bytes.Index(broken, []byte("PK\x01\x02"))+16] ^= 1 // the first member's checksum
	for name, test := range map[string]struct {
		file, unread string
		want         files
	}{
		"a cut gzip":       {whole[:len(whole)-9], "f", nil},
		"a gzip with more": {gzipOf(t, "a") + "more", "f", nil},
		"a cut tar":        {tared[:2000], "f", nil},
		"a broken header":  {"\x1f\x8b\x08", "f", files{}},
		"a cut zip":        {string(broken[:len(broken)-30]), "f", files{}},
		"one member":       {string(broken), "f!a", files{"f!a": "one", "f!b": "two"}},
		"in a tar":         {tarOf(t, files{"a": "1", "b": whole[:50], "c": "3"}), "f!b", nil},
	} {
		texts, unread := walk(t, Limits{}, test.file)
		if why := unread[test.unread]; len(unread) != 1 || !errors.Is(why, ErrDamaged) {
			t.Errorf("%s: unread %v", name, unread)
		}
		if test.want != nil && !maps.Equal(texts, test.want) {
			t.Errorf("%s: got %q", name, texts)
		}
		if name == "in a tar" && texts["f!c"] != "3" {
			t.Errorf("%s: what stands behind it was not read: %q", name, texts)
		}
	}
}

func TestEncryptedZip(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	out, err := w.CreateRaw(&zip.FileHeader{Name: "a", Flags: 1, CRC32: crc32.ChecksumIEEE(nil)})
	if err == nil {
		_, err = out.Write(nil)
	}
	if err == nil {
		_, err = w.CreateRaw(&zip.FileHeader{Name: "b", Method: 99})
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if texts, unread := walk(t, Limits{}, b.String()); len(texts) != 0 || !errors.Is(unread["f!a"], ErrKind) || !errors.Is(unread["f!b"], ErrKind) {
		t.Errorf("%q, unread %v", texts, unread)
	}
}

// A large zip file that comes as a stream goes through a file without a name.
func TestLargeZip(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	out, err := w.CreateHeader(&zip.FileHeader{Name: "a", Method: zip.Store})
	if err == nil {
		_, err = io.WriteString(out, strings.Repeat("x", inMemory+1)+"end")
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	texts, unread := walk(t, Limits{}, gzipOf(t, b.String()))
	if !strings.HasSuffix(texts["f!a"], "xend") || len(unread) != 0 {
		t.Errorf("%d bytes, unread %v", len(texts["f!a"]), unread)
	}
	t.Setenv("TMPDIR", "/nonexistent")
	walker := &Walker{Text: func(string, io.Reader) error { return nil }, Unread: func(name string, why error) { t.Errorf("%s: %v", name, why) }}
	if err := walker.Read(t.Context(), "f", &b); err == nil {
		t.Error("nowhere to unpack it, and no error")
	}
}

func TestErrorsThatEndTheWalk(t *testing.T) {
	own := errors.New("enough")
	file := tarOf(t, files{"a": "1", "b.gz": gzipOf(t, gzipOf(t, "2")), "c": "3"})
	for _, at := range []string{"f!a", "f!b.gz", "f!c"} {
		w := &Walker{
			Text: func(name string, _ io.Reader) error {
				if name == at {
					return own
				}
				return nil
			},
			Unread: func(name string, why error) { t.Errorf("%s: %v", name, why) },
		}
		if err := w.Read(t.Context(), "f", strings.NewReader(file)); !errors.Is(err, own) {
			t.Errorf("at %s: %v", at, err)
		}
	}
	quiet := &Walker{
		Text: func(_ string, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		},
		Unread: func(name string, why error) { t.Errorf("%s: %v", name, why) },
	}
	for _, part := range []int{10, 700, 1500, 2500, len(file) - 1} {
		r := io.MultiReader(strings.NewReader(file[:part]), iotest.ErrReader(own))
		if err := quiet.Read(t.Context(), "f", r); !errors.Is(err, own) {
			t.Errorf("the file can't be read at %d: %v", part, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := quiet.Read(ctx, "f", strings.NewReader(file)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	for _, seed := range []string{
		tarOf(f, files{"a": "1", "b": "2"}), zipOf(f, files{"a": "1", "b": "2"}), gzipOf(f, "text"), bzip2Of(f), gzipOf(f, zipOf(f, files{"x": gzipOf(f, "y")})),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		total := 0
		w := &Walker{
			Limits: Limits{Depth: 4, Members: 100, Bytes: 1 << 20},
			Text: func(name string, r io.Reader) error {
				n, err := io.Copy(io.Discard, r)
				if total += int(n); !strings.HasPrefix(name, "f") || total > 2<<20+len(file) {
					t.Fatalf("%d bytes, the last in %q", total, name)
				}
				return err
			},
			Unread: func(string, error) {},
		}
		if err := w.Read(t.Context(), "f", bytes.NewReader(file)); err != nil {
			t.Error(err)
		}
	})
}
