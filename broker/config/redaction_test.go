package config

import (
	"strings"
	"testing"
	"time"
)

func TestRedaction(t *testing.T) {
	c, mistakes := parse(t, minimal)
	if r := c.Redaction; len(mistakes) > 0 || r.Keep.Std() != 400*24*time.Hour || r.MaxMegabytes != 1024 || r.Streams != 16 || r.MaxTime.Std() != time.Hour || r.Idle.Std() != 2*time.Minute || c.Leaks.MaxAnchors != 1_000_000 {
		t.Errorf("%v; defaults: %+v %+v", mistakes, c.Redaction, c.Leaks)
	}
	c, mistakes = parse(t, minimal+"retention: {leases: 500d}\nredaction: {patterns: [{name: a, pattern: 'x{3}', until: 2027-01-02}]}\nleaks: {github: {keys_url: 'https://api.github.com/x'}}\n")
	if len(mistakes) > 0 || c.Redaction.Keep.Std() != 500*24*time.Hour || c.Redaction.Patterns[0].Until.Std().Year() != 2027 || c.Leaks.GitHub.KeysURL == "" {
		t.Errorf("%v; %+v", mistakes, c.Redaction)
	}
	for text, want := range map[string]string{
		"redaction: {keep: 30d}":                                                          "as long as leases are kept",
		"redaction: {max_megabytes: -1}":                                                  "max_megabytes is a number",
		"redaction: {streams: 5000}":                                                      "streams is a number",
		"redaction: {idle: 2h}":                                                           "idle is between",
		"redaction: {max_time: 100ms}":                                                    "",
		"redaction: {patterns: [{name: A, pattern: x}]}":                                  "can't be the name of a pattern",
		"redaction: {patterns: [{name: a, pattern: '('}]}":                                "no RE2 regular expression",
		"redaction: {patterns: [{name: a, pattern: 'x*'}]}":                               "matches an empty text",
		"redaction: {patterns: [{name: a, pattern: x}, {name: a, pattern: y}]}":           "two patterns a",
		"redaction: {patterns: [{name: a, pattern: '" + strings.Repeat("x", 257) + "'}]}": "between 1 and 256 bytes",
		"leaks: {github: {keys_url: 'http://example.com'}}":                               "is not https",
		"leaks: {max_anchors: -5}":                                                        "max_anchors is a number",
		"leaks: {gitlab: {types: ['']}}":                                                  "between 1 and 200 bytes",
		"limits: {leak_requests: -1}":                                                     "leak_requests is a number",
	} {
		_, mistakes := parse(t, minimal+text+"\n")
		if len(mistakes) == 0 || !strings.Contains(mistakes[0].Text, want) {
			t.Errorf("%s: %v, want %q", text, mistakes, want)
		}
	}
}
