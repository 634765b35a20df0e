package dpop

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func urlOf(t *rapid.T) *url.URL {
	u := &url.URL{
		Scheme: rapid.SampledFrom([]string{"http", "https"}).Draw(t, "scheme"),
		Host:   rapid.SampledFrom([]string{"a.example", "A.example:443", "127.0.0.1:8080", "[::1]:80", "b.example:"}).Draw(t, "host"),
		Path:   "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "..", ".", "", "%", "%41", "ü", "a b", "~", "?", "lse_1:x"}), 0, 5).Draw(t, "path"), "/"),
	}
	u.RawQuery = rapid.SampledFrom([]string{"", "a=b"}).Draw(t, "query")
	return u
}

// TestNormalize: the examples of RFC 3986, section 6.2, and what must stay apart.
func TestNormalize(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{"https://example.com/", "https://example.com", "HTTPS://EXAMPLE.com:443/", "https://example.com:/", "https://example.com?q", "https://example.com/#f"},
		{"http://example.com/", "http://example.com:80"},
		{"https://example.com/%7Esmith/home", "https://example.com/~smith/home", "https://EXAMPLE.com/%7esmith/%68ome"},
		{"https://example.com/a/c", "https://example.com/a/./b/../c", "https://example.com/a/%2e/b/%2E%2E/c", "https://example.com/../a/c"},
		{"https://example.com/a/", "https://example.com/a/.", "https://example.com/a/b/.."},
		{"https://example.com/a%2Fb", "https://example.com/a%2fb"},
		{"https://[::1]/x", "https://[::1]:443/x"},
	} {
		want, err := Normalize(same[0])
		if err != nil {
			t.Fatal(same[0], err)
		}
		for _, other := range same[1:] {
			if got, err := Normalize(other); err != nil || got != want {
				t.Errorf("%s is %q (%v), want %q", other, got, err, want)
			}
		}
	}
	apart := map[string]string{}
	for _, text := range []string{
		"https://example.com/a", "https://example.com/A", "https://example.com/a/", "https://example.com//a", "https://example.com/a%2F", "https://example.com/%2561", "https://example.com/a%25",
		"https://example.com:8443/a", "http://example.com/a", "http://example.com:443/a", "https://example.com:80/a", "https://example.com./a", "https://example.org/a", "https://example.com/a;b",
	} {
		got, err := Normalize(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if other, taken := apart[got]; taken {
			t.Errorf("%s and %s are both %s", text, other, got)
		}
		apart[got] = text
	}
	for _, bad := range []string{"", "/token", "example.com", "ftp://example.com/", "https:///x", "https://user@example.com/", "https:example.com", "https://:443", "https://example.com/%zz", "//example.com/x", "javascript:x", "http://%25", "https://a%2Fb/", "https://[fe80::1%25eth0]/"} {
		if got, err := Normalize(bad); err == nil {
			t.Errorf("%q is %q", bad, got)
		}
	}
}

// FuzzNormalize: normal is normal again, and the host that is compared is the one that
// would be called.
func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"https://example.com/a/../b", "http://[::1]:80/%7e", "https://a.example:443//./..", "https://ex%41mple.com/", "https://a.example/%252e", "http://.", "http://%25"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Normalize(text)
		if err != nil {
			return
		}
		again, err := Normalize(got)
		if err != nil || again != got {
			t.Errorf("%q is %q, and then %q (%v)", text, got, again, err)
		}
		before, err1 := url.Parse(text)
		after, err2 := url.Parse(got)
		if err1 != nil || err2 != nil || !strings.EqualFold(before.Hostname(), after.Hostname()) || strings.Contains(after.EscapedPath(), "/../") || strings.Contains(after.EscapedPath(), "/./") || after.RawQuery != "" {
			t.Errorf("%q is %q (%v, %v)", text, got, err1, err2)
		}
	})
}
