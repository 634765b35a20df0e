package httpapi

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
)

// format is how the answer of an exchange is written.
type format struct {
	name    string // json, env, dotenv, github, value
	field   string // of value: which one
	session bool   // hand out the session token where it isn't asked for by json
}

const sessionEnv = "DAYPASS_SESSION_TOKEN"

func newFormat(name, field, session string) (*format, error) {
	if name == "" {
		name = "json"
	}
	f := &format{name: name, field: field, session: session == "true"}
	switch {
	case !slices.Contains([]string{"json", "env", "dotenv", "github", "value"}, name):
		return nil, &broker.RequestError{Detail: fmt.Sprintf("there is no format %q: use json, env, dotenv, github or value", clip(name))}
	case session != "" && session != "true" && session != "false":
		return nil, &broker.RequestError{Detail: "session is true or false"}
	case field != "" && name != "value":
		return nil, &broker.RequestError{Detail: "field goes with format=value"}
	case f.session && name == "value":
		return nil, &broker.RequestError{Detail: "format=value has no place for the session token: use format=env"}
	}
	return f, nil
}

// check refuses, before anything is issued, what can't be written in this format.
func (f *format) check(grants int) error {
	if f.name == "value" && grants > 1 {
		return &broker.RequestError{Detail: "format=value writes one secret: ask for one grant"}
	}
	return nil
}

// pick chooses the one value that format=value writes, and is called before
// anything is made for it.
func (f *format) pick(values map[string]bool) error {
	var secrets []string
	for name, sensitive := range values {
		if sensitive {
			secrets = append(secrets, name)
		}
	}
	slices.Sort(secrets)
	_, known := values[f.field]
	switch {
	case f.field == "" && len(secrets) == 0:
		return &broker.RequestError{Detail: "this grant has no secret: add field=, one of " + strings.Join(slices.Sorted(maps.Keys(values)), ", ")}
	case f.field == "" && len(secrets) != 1:
		return &broker.RequestError{Detail: "this grant has several secrets: add field=, one of " + strings.Join(secrets, ", ")}
	case f.field == "":
		f.field = secrets[0]
	case !known:
		return &broker.RequestError{Detail: fmt.Sprintf("this grant has no value %q: it has %s", clip(f.field), strings.Join(slices.Sorted(maps.Keys(values)), ", "))}
	}
	return nil
}

// variable is one line of an environment.
type variable struct{ name, value string }

func variables(out *api.ExchangeResponse, session bool) []variable {
	var list []variable
	for _, c := range out.Credentials {
		for name, value := range c.Env {
			list = append(list, variable{name, value})
		}
	}
	if session {
		list = append(list, variable{sessionEnv, out.Session.Token})
	}
	slices.SortFunc(list, func(a, b variable) int { return strings.Compare(a.name, b.name) })
	return list
}

// write renders the answer as text: all formats but json and value.
func (f *format) write(out *api.ExchangeResponse) string {
	var b strings.Builder
	list := variables(out, f.session)
	delimiter := githubDelimiter(list)
	for _, v := range list {
		switch f.name {
		case "env":
			fmt.Fprintf(&b, "export %s=%s\n", v.name, shellQuote(v.value))
		case "dotenv":
			fmt.Fprintf(&b, "%s=%s\n", v.name, dotenvQuote(v.value))
		case "github":
			fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", v.name, delimiter, v.value, delimiter)
		}
	}
	return b.String()
}

// shellQuote makes one word of any value for any POSIX shell (XCU §2.2.2): in
// single quotes nothing is special but the single quote itself.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// dotenvQuote quotes for the readers of dotenv files: in single quotes all of
// them take a value as it is, in double quotes they know \n, \r, \", \\ and $.
func dotenvQuote(s string) string {
	if !strings.ContainsAny(s, "'\n\r") {
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

// githubDelimiter makes up a line that stands in no value, so that no value can
// end its own block and set other variables.
func githubDelimiter(list []variable) string {
	for {
		delimiter := "daypass_" + rand.Text()
		if !slices.ContainsFunc(list, func(v variable) bool { return strings.Contains(v.value, delimiter) }) {
			return delimiter
		}
	}
}
