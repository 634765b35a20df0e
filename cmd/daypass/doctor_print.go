package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// claimsShown are those that a broker looks at whatever the policy.
func claimsShown() []string { return []string{"iss", "aud", "sub", "iat", "nbf", "exp"} }

// claim is a claim as JSON, on one line and of bounded length.
func (t shownToken) claim(name string) string {
	value, there := t.Claims[name]
	if !there {
		return "absent"
	}
	if at := t.when(name); !at.IsZero() && slices.Contains([]string{"iat", "nbf", "exp"}, name) {
		return stamp(at)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "unreadable"
	}
	return fmt.Sprintf("%.400s", clean(string(text)))
}

func sortedNames(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// print writes the diagnosis for people.
func (d *diagnosis) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(head, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", head, clean(fmt.Sprintf(format, args...))) //nolint:errcheck // Flush says it
	}
	line("runs in", "%s", d.CI.Title)
	for _, v := range d.CI.Variables {
		line("", "%s is %s", v.Name, map[bool]string{true: "set", false: "not set"}[v.Set])
	}
	d.printToken(line)
	d.printBroker(line)
	for _, g := range d.Grants {
		switch {
		case g.Allowed:
			line("grant", "%s would be given", g.Grant)
		case g.Grant == anyGrant:
			line("refused", "the token: %s: %s", g.answer(), g.Detail)
		default:
			line("refused", "%s: %s: %s", g.Grant, g.answer(), g.Detail)
		}
	}
	if d.Broker.Reachable && d.Token.Error == "" && len(d.Grants) == 0 {
		line("accepted", "the broker takes the token (add --grant POLICY/GRANT to ask about a grant)")
	}
	for _, advice := range d.Advice {
		line("to do", "%s", advice)
	}
	if d.OK {
		line("all is well", "")
	}
	return w.Flush()
}

// answer is code and reason of a refusal.
func (g grantAnswer) answer() string {
	return strings.TrimSpace(string(g.Code) + " " + string(g.Reason))
}

func (d *diagnosis) printToken(line func(head, format string, args ...any)) {
	if d.Token.Error != "" {
		line("token", "none: %s", d.Token.Error)
	} else {
		line("token", "from %s", d.Token.From)
	}
	if d.Token.Claims == nil {
		return
	}
	var header []string
	for _, name := range []string{"alg", "typ", "kid"} {
		if value, is := d.Token.Header[name].(string); is {
			header = append(header, fmt.Sprintf("%s %.80s", name, value))
		}
	}
	line("", "%s", strings.Join(header, ", "))
	for _, name := range claimsShown() {
		if _, there := d.Token.Claims[name]; there {
			line("", "%s %s", name, d.Token.claim(name))
		}
	}
}

func (d *diagnosis) printBroker(line func(head, format string, args ...any)) {
	b := d.Broker
	switch {
	case b.Error != "":
		line("broker", "%s: %s", b.URL, b.Error)
		return
	case b.Issuer != b.URL:
		line("broker", "%s, which calls itself %s", b.URL, b.Issuer)
	default:
		line("broker", "%s", b.URL)
	}
	for _, name := range sortedNames(b.Checks) {
		line("", "%s: %s", name, b.Checks[name])
	}
	for _, name := range sortedNames(b.Issuers) {
		line("", "issuer %s: %s", name, b.Issuers[name])
	}
	if b.Ahead != 0 {
		line("", "its clock is %+.0f s from this machine's", b.Ahead)
	}
}
