package redact

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	const value = `p@ss "w0rd"/it's<5>é`
	forms := Forms(value)
	if forms[0] != value {
		t.Errorf("the first form is %q, want the value itself", forms[0])
	}
	js, _ := json.Marshal(value)
	for name, want := range map[string]string{
		"JSON": strings.Trim(string(js), `"`), "JSON without HTML": `p@ss \"w0rd\"/it's<5>é`, "JSON in JSON": `p@ss \\\"w0rd\\\"/it's<5>é`,
		"JSON with \\/": `p@ss \"w0rd\"\/it's<5>\u00E9`, "Go": `p@ss \"w0rd\"/it's<5>\u00e9`, "HTML": html.EscapeString(value),
		"query": url.QueryEscape(value), "path": url.PathEscape(value), "lower case": strings.ToLower(url.PathEscape(value)),
		"userinfo": strings.TrimPrefix(url.UserPassword("", value).String(), ":"), "shell": strings.ReplaceAll(value, "'", `'\''`),
		"PowerShell": strings.ReplaceAll(value, `"`, "`\""), "doubled": strings.ReplaceAll(value, "'", "''"),
		"every byte": "%70%40%73%73%20%22%77%30%72%64%22%2F%69%74%27%73%3C%35%3E%C3%A9", "base64": base64.StdEncoding.EncodeToString([]byte(value)),
	} {
		if !slices.Contains(forms, want) {
			t.Errorf("%s: %q is not among the forms", name, want)
		}
	}
}

// Whatever stands around a value, a form is part of the base64 of both.
func TestFormsInBase64(t *testing.T) {
	value := "hunter2-hunter3?>~"
	forms := Forms(value)
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding} {
		for _, around := range [][2]string{{"", ""}, {"x", "y"}, {"xx", "yy"}, {"user:", "\n"}, {"123456", "}"}} {
			text := encoding.EncodeToString([]byte(around[0] + value + around[1]))
			longest := 0
			for _, form := range forms {
				if strings.Contains(text, form) {
					longest = max(longest, len(form))
				}
			}
			if full := len(value) * 4 / 3; longest < full-1 {
				t.Errorf("%q around: %d of %d characters are a form", around, longest, full)
			}
		}
	}
}

func TestFields(t *testing.T) {
	for _, test := range []struct {
		value string
		want  []string
	}{
		{"postgres://app:hunter2%2Fhunter3@db:5432/payments?sslmode=require", []string{"hunter2%2Fhunter3", "hunter2/hunter3"}},
		{"postgres://app:hunter2/hunter3@db:5432/payments", []string{"hunter2/hunter3"}},
		{"app:hunter2@hunter3@tcp(db:3306)/payments", []string{"hunter2@hunter3"}},
		{"host=db user=app password='hunter2 hunter3' dbname=payments", []string{"hunter2 hunter3"}},
		{"Server=db;User Id=payments;Password=hunter2hunter3;", []string{"hunter2hunter3"}},
		{"https://example.com/hook?sig=hunter2hunter3&run=1234567890123", []string{"hunter2hunter3"}},
		{"https://hunter2hunter3hunter4@example.com/", []string{"hunter2hunter3hunter4"}},
		{`{"user":"payments-app","password":"hunter2hunter3","nested":{"list":["another-one"]},"token_uri":"https://example.com/token"}`, []string{"hunter2hunter3", "another-one"}},
		{`{"url":"redis://:hunter2hunter3@cache/0"}`, []string{"hunter2hunter3"}},
		{"someone@example.com", nil},
		{"postgres://payments@db/payments", nil},
		{"{not json", nil},
		{"a:b", nil},
	} {
		got := fields(test.value)
		for _, want := range test.want {
			if !slices.Contains(got, want) {
				t.Errorf("%s: got %q, want %q among them", test.value, got, want)
			}
		}
		if len(test.want) == 0 && len(got) > 0 {
			t.Errorf("%s: got %q, want none", test.value, got)
		}
	}
}

func TestCommon(t *testing.T) {
	for _, value := range []string{"", "hunter2", "password", "PassWord", "aaaaaaaaaaaaaaaaaaaaaaaa", "2026-11-27T10:0", "1234567890123", "localhost", "        "} {
		if !Common(value) {
			t.Errorf("%q can be masked, want it refused", value)
		}
	}
	for _, value := range []string{"hunter22", "1234567890123456", "aaaaaaab", strconv.Quote("password"), "localhost 5432", "\x00\x00\x00\x00\x00\x00\x00\x01"} {
		if Common(value) {
			t.Errorf("%q is refused, want it masked", value)
		}
	}
}
