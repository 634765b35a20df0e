package main

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
)

// runner reads what a step prints as GitHub's runner does (ActionCommand.TryParseV2
// and AddMaskCommandExtension of github.com/actions/runner, re-stated): commands are
// lines that begin with "::", their data is unescaped, and of data of several lines
// each is masked by itself too.
func runner(printed string) (masked []string) {
	for line := range strings.Lines(printed) {
		line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " ")
		data, ok := strings.CutPrefix(line, "::add-mask::")
		if !ok || strings.TrimSpace(data) == "" {
			continue
		}
		data = strings.ReplaceAll(strings.ReplaceAll(data, "%0D", "\r"), "%0A", "\n")
		data = strings.ReplaceAll(data, "%25", "%")
		masked = append(masked, data)
		masked = append(masked, strings.FieldsFunc(data, func(r rune) bool { return r == '\r' || r == '\n' })...)
	}
	return masked
}

// mask replaces longest first, as the runner merges overlapping finds.
func mask(log string, secrets []string) string {
	for _, secret := range secrets {
		log = strings.ReplaceAll(log, secret, "***")
	}
	return log
}

func TestGitHubMasks(t *testing.T) {
	const pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49%0AgEGCCqGSM49AwEHBG0wawIBAQQg\n0123456789abcdef::set-env\n-----END PRIVATE KEY-----\n"
	const hostile = "50%25 of\r\n::warning::it%0A is 100% \"secret\" & <more>"
	var said bytes.Buffer
	p := &program{stderr: &said}
	answer := &api.ExchangeResponse{
		Session: api.Session{Token: sessionToken},
		Credentials: []api.Credential{{
			Grant: "p/g", Secret: []string{"password", "key", "hostile", "pin", "common"},
			Values: map[string]string{"password": password, "key": pem, "hostile": hostile, "pin": "1234", "common": "production", "username": "dp_user_name"},
		}},
	}
	printed := p.githubMasks(answer)
	for line := range strings.Lines(printed) {
		if !strings.HasPrefix(line, "::add-mask::") {
			t.Errorf("a line that is no mask: %q", line)
		}
	}
	masked := runner(printed)
	for _, text := range []string{
		password, sessionToken, "0123456789abcdef::set-env", "MIGHAgEAMBMGByqGSM49%0AgEGCCqGSM49AwEHBG0wawIBAQQg",
		"::warning::it%0A is 100% \"secret\" & <more>", url.QueryEscape(password),
		base64.URLEncoding.EncodeToString([]byte(password)), base64.StdEncoding.EncodeToString([]byte("x" + hostile))[2:],
	} {
		found := mask("a "+text+" b", masked)
		if len(found) > 20 {
			t.Errorf("%q is shown as %q", text, found)
		}
	}
	for _, secret := range masked {
		if secret == "1234" || secret == "production" || strings.Contains("dp_user_name", secret) {
			t.Errorf("%q is masked", secret)
		}
	}
	for _, want := range []string{"the value pin of p/g is too short or too common", "the value common of p/g is too short or too common"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("not said: %s; but\n%s", want, said.String())
		}
	}
	if strings.Contains(said.String(), "1234") {
		t.Errorf("a value is said: %s", said.String())
	}
}
