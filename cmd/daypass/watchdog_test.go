package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
)

// What the watchdog is told, and what it makes of it.
func TestWatchdogListens(t *testing.T) {
	line := func(token string, gone bool) string {
		text, err := json.Marshal(watched{URL: "https://b", Token: token, Gone: gone})
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + "\n"
	}
	many := ""
	for i := range watchdogMost + 3 {
		many += line(fmt.Sprint("dpr_", i), false)
	}
	for name, test := range map[string]struct {
		told string
		want string // tokens
	}{
		"nothing":             {"", ""},
		"one":                 {line("a", false), "a"},
		"done":                {line("a", false) + watchdogDone, ""},
		"one after the other": {line("a", false) + line("b", false), "a b"},
		"the first is gone":   {line("a", false) + line("b", false) + line("a", true), "b"},
		"told twice":          {line("a", false) + line("a", false), "a"},
		"cut off":             {line("a", false) + strings.TrimSuffix(line("b", false), "\n"), "a"},
		"a cut-off last word": {line("a", false) + "done", "a"},
		"what is no word":     {"{}\n[\n\n\x00\n" + line("a", false), "a"},
		"too long":            {strings.Repeat("x", watchdogLine+7) + "\n" + line("a", false), "a"},
	} {
		var got []string
		for _, w := range listen(strings.NewReader(test.told)) {
			got = append(got, w.Token)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %q", name, got, test.want)
		}
	}
	if open := listen(strings.NewReader(many)); len(open) != watchdogMost || open[len(open)-1].Token != fmt.Sprint("dpr_", watchdogMost+2) {
		t.Errorf("of many, %d", len(open))
	}
}

// What exec tells is what the watchdog hears, wherever it is started from.
func TestWatchdogIsTold(t *testing.T) {
	t.Chdir(t.TempDir())
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	caCert, err := absolute("ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	w := &watchdog{to, watched{URL: "https://b", CACert: caCert}}
	w.watch(api.Session{Token: "dps_1", RevocationToken: "dpr_1"})
	w.watch(api.Session{Token: "dps_0"})
	w.watch(api.Session{Token: "dps_2", RevocationToken: "dpr_2"})
	w.forget(api.Session{Token: "dps_1", RevocationToken: "dpr_1"})
	w.end(false)
	told, err := io.ReadAll(from)
	if err != nil || bytes.Contains(told, []byte("dps_")) {
		t.Fatalf("%v; a session token was told: %s", err, told)
	}
	open := listen(bytes.NewReader(told))
	if len(open) != 1 || open[0].Token != "dpr_2" || open[0].URL != "https://b" || !filepath.IsAbs(open[0].CACert) || filepath.Base(open[0].CACert) != "ca.pem" {
		t.Errorf("%+v", open)
	}
	// None, and one that was killed, hold nothing up.
	(*watchdog)(nil).watch(api.Session{RevocationToken: "dpr_1"})
	(*watchdog)(nil).end(true)
	_ = from.Close()
	w.watch(api.Session{RevocationToken: "dpr_3"})
	w.end(true)
}

func TestWatchdogEnv(t *testing.T) {
	own := []string{"PATH=/bin", "https_proxy=http://p", "HTTPS_PROXY_2=x", "NO_PROXY=", "RUNNER_TRACKING_ID=x", "DAYPASS_JOB_TOKEN=x", "BUILD_ID=1", "SSL_CERT_FILE=/ca"}
	got := watchdogEnv(own)
	slices.Sort(got)
	if want := []string{"NO_PROXY=", "SSL_CERT_FILE=/ca", "https_proxy=http://p"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := watchdogEnv(nil); got == nil {
		t.Error("nil stands for all of exec's own")
	}
}

func FuzzReadTold(f *testing.F) {
	f.Add([]byte(`{"url":"https://b","token":"dpr_1"}` + "\n" + watchdogDone))
	f.Add([]byte(`{"token":"dpr_1","gone":true}` + "\nx"))
	f.Fuzz(func(t *testing.T, told []byte) {
		open := listen(bytes.NewReader(told))
		if len(open) > watchdogMost || len(open) > bytes.Count(told, []byte("\n")) {
			t.Errorf("%d of %d lines", len(open), bytes.Count(told, []byte("\n")))
		}
	})
}
