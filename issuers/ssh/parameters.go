package ssh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parameters are a grant's `with`. All of them choose among what the role allows.
//
//	with:
//	  principals: [deploy]            # templates may stand here: ["ci-{{ claims.environment }}"]
//	  source_address: [10.1.2.0/24]   # within the role's
//	  force_command: /usr/bin/deploy  # one of the role's
type Parameters struct {
	// Principals are whom the certificate is good for. Nil: the role's own.
	Principals []string
	// SourceAddress narrows where it is good from. Nil: the role's own.
	SourceAddress []string
	// ForceCommand is the one command that it is good for. Empty: the role's, where
	// that has one alone.
	ForceCommand string
}

const maxParameters = 64 << 10

// parseParameters reads one object: each name once, none that isn't known, and
// nothing behind it. encoding/json alone would take other cases of a name too.
func parseParameters(raw json.RawMessage) (*Parameters, error) {
	p := &Parameters{}
	if len(raw) == 0 || string(raw) == "null" {
		return p, nil
	}
	if len(raw) > maxParameters || !utf8.Valid(raw) {
		return nil, fmt.Errorf("the parameters are not UTF-8, or longer than %d bytes", maxParameters)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("the parameters are not an object")
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, errors.New("the parameters are malformed")
		}
		name, _ := token.(string)
		if seen[name] {
			return nil, fmt.Errorf("%q stands twice", name)
		}
		seen[name] = true
		if err := p.read(decoder, name); err != nil {
			return nil, err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("the parameters are malformed")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the parameters are not one object")
	}
	return p, nil
}

func (p *Parameters) read(decoder *json.Decoder, name string) error {
	var raw json.RawMessage
	if err := decoder.Decode(&raw); err != nil {
		return errors.New("the parameters are malformed")
	}
	switch name {
	case "principals":
		return readList(raw, name, maxPrincipals, &p.Principals)
	case "source_address":
		return readList(raw, name, maxNetworks, &p.SourceAddress)
	case "force_command":
		if err := json.Unmarshal(raw, &p.ForceCommand); err != nil || p.ForceCommand == "" {
			return errors.New("force_command: a string is needed")
		}
		return nil
	}
	return fmt.Errorf("there is no parameter %q: principals, source_address and force_command are what there is", name)
}

func readList(raw json.RawMessage, name string, most int, into *[]string) error {
	var list []*string
	if err := json.Unmarshal(raw, &list); err != nil || slices.Contains(list, nil) || len(list) == 0 || len(list) > most {
		return fmt.Errorf("%s: a list of 1 to %d strings is needed", name, most)
	}
	for _, item := range list {
		*into = append(*into, *item)
	}
	return nil
}

// terms are what one certificate says besides for whose key and when.
type terms struct {
	principals   []string
	networks     []netip.Prefix // empty: from anywhere
	forceCommand string         // empty: any
}

// terms joins what the grant says with what the role allows. While templates are
// not filled yet, what holds one is looked at later, by Issue.
func (r Role) terms(p *Parameters, templates bool) (*terms, error) {
	known := func(list []string) []string {
		if !templates {
			return list
		}
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.Contains(s, "{{") })
	}
	t := &terms{principals: p.Principals}
	if len(t.principals) == 0 {
		t.principals = r.DefaultPrincipals
	}
	if len(t.principals) == 0 {
		return nil, errors.New("principals is missing: say whom the certificate is for")
	}
	if err := r.checkAllowed(known(t.principals)); err != nil {
		return nil, err
	}
	if r.Type == TypeHost && (len(p.SourceAddress) > 0 || p.ForceCommand != "") {
		return nil, errors.New("a host's certificate has no source_address or force_command")
	}
	var err error
	if t.networks, err = r.narrow(known(p.SourceAddress)); err != nil {
		return nil, err
	}
	t.forceCommand, err = r.command(p.ForceCommand)
	return t, err
}

func (r Role) narrow(texts []string) ([]netip.Prefix, error) {
	networks, err := readNetworks(texts)
	if err != nil || len(networks) == 0 {
		return r.networks, err
	}
	for _, network := range networks {
		within := func(wider netip.Prefix) bool {
			return wider.Bits() <= network.Bits() && wider.Contains(network.Addr())
		}
		if len(r.networks) > 0 && !slices.ContainsFunc(r.networks, within) {
			return nil, fmt.Errorf("source address %s is not within those of the role: a grant can only narrow them", network)
		}
	}
	return networks, nil
}

// command never takes what stands in no list: it is run by a shell, and a
// template's value is a stranger's.
func (r Role) command(asked string) (string, error) {
	switch {
	case asked == "" && len(r.ForceCommands) == 1:
		return r.ForceCommands[0], nil
	case asked == "" && len(r.ForceCommands) > 1:
		return "", errors.New("force_command is missing: the role has several commands, of which a grant names one")
	case asked != "" && !slices.Contains(r.ForceCommands, asked):
		return "", fmt.Errorf("force_command %q is not among the role's force_commands in the server's configuration", asked)
	}
	return asked, nil
}
