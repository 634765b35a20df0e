package vaultapi

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// FuzzDecode: what is taken is one JSON object, and no member of it stands twice.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"jwt":"a","role":""}`, `{"a":1,"a":2}`, `{"a":{"a":1,"a":2}}`, `[]`, `{"a":1}x`, `{"increment":1e99}`, `{"increment":"5m"}`, `{"a"`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decode(data)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(data, &want); err != nil || len(want) != len(got) {
			t.Fatalf("%q: %v, %d members, want %d", data, err, len(got), len(want))
		}
		if asked, err := got.increment(); err == nil && (asked < 0 || asked > mostIncrement) {
			t.Errorf("%q asks for %s", data, asked)
		}
	})
}

// FuzzPath: only what was written plainly is a path, and only below the prefix.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/vault/v1/database/creds/deploy", "/vault/v1/a%2fb", "/vault/v1/a%2Fb", "/vault/v1/../x", "/vault/v1//", "/vault", "/vault/v1/%00", "/vault/v1/a;b?c#d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		path, ok := pathOf(u)
		if ok && (path == "" || len(path) > maxPath || u.Path != Prefix+"/v1/"+path || strings.Count(u.EscapedPath(), "/") != strings.Count(u.Path, "/")) {
			t.Errorf("%q is the path %q", raw, path)
		}
	})
}
