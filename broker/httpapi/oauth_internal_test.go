package httpapi

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

// TestResourceServerProof: by a secret, by a certificate, or by both where both are
// configured.
func TestResourceServerProof(t *testing.T) {
	sum := func(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
	s := &Server{config: Config{OAuth: OAuth{Servers: []ResourceServer{
		{Name: "secret", Secret: sum("s1")},
		{Name: "certificate", Certificate: sum("c1")},
		{Name: "both", Secret: sum("s2"), Certificate: sum("c2")},
		{Name: "neither"},
	}}}}
	for _, c := range []struct{ name, secret, certificate, want string }{
		{"secret", "s1", "", "secret"},
		{"secret", "s1", "c1", "secret"},
		{"secret", "s2", "", ""},
		{"both", "s1", "", ""},
		{"", "", "c1", "certificate"},
		{"certificate", "", "c1", "certificate"},
		{"certificate", "anything", "c1", "certificate"}, // its secret isn't asked for
		{"neither", "", "c1", ""},
		{"", "", "c3", ""},
		{"", "", "", ""},
		{"certificate", "", "", ""},
		{"both", "s2", "c2", "both"},
		{"both", "s2", "", ""},
		{"", "", "c2", ""},
		{"both", "", "c2", ""},
		{"both", "s2", "c1", ""},
		{"neither", "", "", ""},
	} {
		r := httptest.NewRequest(http.MethodPost, "/oauth/introspect", nil)
		if c.name != "" {
			r.SetBasicAuth(url.QueryEscape(c.name), url.QueryEscape(c.secret))
		}
		if c.certificate != "" {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte(c.certificate)}}}
		}
		found, err := s.resourceServer(r)
		switch {
		case c.want == "" && !errors.Is(err, errClient):
			t.Errorf("%+v: %v, %v", c, found, err)
		case c.want != "" && (err != nil || found.Name != c.want):
			t.Errorf("%+v: %v, %v", c, found, err)
		}
	}
}

// TestNobodyMayIntrospect: then no metadata says that somebody could.
func TestNobodyMayIntrospect(t *testing.T) {
	s := &Server{config: Config{ExternalURL: "https://daypass.example.com", Algorithms: func() []string { return []string{"ES256"} }}}
	w := httptest.NewRecorder()
	if err := s.metadata(echo.New().NewContext(httptest.NewRequest(http.MethodGet, "/", nil), w)); err != nil {
		t.Fatal(err)
	}
	if body := w.Body.String(); strings.Contains(body, "introspection") || !strings.Contains(body, `"token_endpoint":"https://daypass.example.com/oauth/token"`) {
		t.Error(body)
	}
}

// What a stranger sends as a form is read once, bounded, and never panics.
func FuzzReadForm(f *testing.F) {
	for _, seed := range []string{"a=b", "a=b&a=c", "audience=x&audience=y", "%zz", "a;b", "=", "&&&", "a=%00", "subject_token=", "audience=&audience=x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		form, err := readForm(r, "audience")
		if err != nil {
			return
		}
		for name, values := range form {
			if len(values) == 0 || len(values) > 1 && (name != "audience" || len(values) > maxRepeated) {
				t.Fatalf("%q has %q", name, values)
			}
			for _, v := range values {
				if v == "" {
					t.Fatalf("%q has an empty value", name)
				}
			}
		}
	})
}
