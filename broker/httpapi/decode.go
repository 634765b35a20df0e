package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
)

// errTooLarge: the body is over api.MaxBody.
var errTooLarge = errors.New("body too large")

// readBody reads a body whole; nil when there is none.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, api.MaxBody+1))
	switch {
	case err != nil:
		return nil, &broker.RequestError{Detail: "the body could not be read to its end"}
	case len(body) > api.MaxBody:
		return nil, errTooLarge
	case !utf8.Valid(body):
		return nil, &broker.RequestError{Detail: "the body is not valid UTF-8"}
	}
	return bytes.Trim(body, " \t\r\n"), nil // what JSON calls white space (RFC 8259 §2); Unicode has more
}

// decodeObject reads one JSON object strictly: fields by their exact names, each
// once, no others, and nothing behind it. encoding/json alone would take
// "Grants" for "grants", and the last of two.
func decodeObject(data []byte, fields map[string]any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	start, err := decoder.Token()
	if err != nil || start != json.Delim('{') {
		return &broker.RequestError{Detail: "the body must be a JSON object"}
	}
	seen := map[string]bool{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return badJSON(err)
		}
		name, _ := key.(string)
		into, known := fields[name]
		switch {
		case !known:
			return &broker.RequestError{Detail: fmt.Sprintf("unknown field %q: known are %s", clip(name), strings.Join(sortedKeys(fields), ", "))}
		case seen[name]:
			return &broker.RequestError{Detail: fmt.Sprintf("field %q stands twice", name)}
		}
		seen[name] = true
		if err := decoder.Decode(into); err != nil {
			return badJSON(err)
		}
	}
	if _, err := decoder.Token(); err != nil { // the closing brace
		return badJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &broker.RequestError{Detail: "something stands behind the JSON object"}
	}
	return nil
}

func badJSON(err error) error {
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &broker.RequestError{Detail: "a value has the wrong type: " + kind.Value + " where " + kind.Type.String() + " is wanted"}
	}
	if request, ok := errors.AsType[*broker.RequestError](err); ok {
		return request
	}
	return &broker.RequestError{Detail: "the body is not valid JSON"}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// clip keeps what a stranger sent from filling an answer.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// wantedGrant is one element of `grants`: an object, or a bare string.
type wantedGrant struct{ name, ttl, csr, publicKey string }

// UnmarshalJSON implements json.Unmarshaler.
func (w *wantedGrant) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &w.name)
	}
	return decodeObject(data, map[string]any{"name": &w.name, "ttl": &w.ttl, "csr": &w.csr, "public_key": &w.publicKey})
}

// decodeExchange reads what is asked for, from the body or from the query.
func decodeExchange(r *http.Request) ([]broker.GrantRequest, *format, error) {
	query := r.URL.Query()
	for name, values := range query {
		switch name {
		case "grant":
		case "format", "field", "session":
			if len(values) > 1 {
				return nil, nil, &broker.RequestError{Detail: name + " stands twice in the query"}
			}
		default:
			return nil, nil, &broker.RequestError{Detail: fmt.Sprintf("unknown query parameter %q: known are grant, format, field, session", clip(name))}
		}
	}
	f, err := newFormat(query.Get("format"), query.Get("field"), query.Get("session"))
	if err != nil {
		return nil, nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, nil, err
	}
	var wanted []wantedGrant
	for _, name := range query["grant"] {
		wanted = append(wanted, wantedGrant{name: name})
	}
	if len(body) > 0 {
		if len(wanted) > 0 {
			return nil, nil, &broker.RequestError{Detail: "grants stand in the query and in the body: use one of them"}
		}
		if err := decodeObject(body, map[string]any{"grants": &wanted}); err != nil {
			return nil, nil, err
		}
	}
	if len(wanted) > api.MaxGrants {
		return nil, nil, &broker.RequestError{Detail: fmt.Sprintf("%d grants at once are too many: %d is the most", len(wanted), api.MaxGrants)}
	}
	grants := make([]broker.GrantRequest, len(wanted))
	for i, w := range wanted {
		if grants[i], err = w.request(); err != nil {
			return nil, nil, err
		}
	}
	return grants, f, nil
}

func (w wantedGrant) request() (broker.GrantRequest, error) {
	policy, grant, ok := strings.Cut(w.name, "/")
	if !ok || !isName(policy) || !isName(grant) {
		return broker.GrantRequest{}, &broker.RequestError{Detail: fmt.Sprintf("%q is no grant: a grant is written POLICY/GRANT, for example payments/deploy-db", clip(w.name))}
	}
	ttl, err := parseTTL(w.ttl)
	return broker.GrantRequest{Name: w.name, TTL: ttl, CSR: w.csr, PublicKey: w.publicKey}, err
}

// retryKey reads the header Idempotency-Key; "" where there is none.
func retryKey(r *http.Request) (string, error) {
	values := r.Header.Values(api.HeaderIdempotencyKey)
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	printable := strings.IndexFunc(key, func(c rune) bool { return c < '!' || c > '~' }) < 0
	if len(values) > 1 || key == "" || len(key) > api.MaxIdempotencyKey || !printable {
		return "", &broker.RequestError{Detail: fmt.Sprintf("send one header %s with 1 to %d printable ASCII characters, or none", api.HeaderIdempotencyKey, api.MaxIdempotencyKey)}
	}
	return key, nil
}

func isName(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// parseTTL reads a duration such as 10m, 90s, 1h, 1h30m; 0 for none.
func parseTTL(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(s)
	if err != nil || ttl < time.Second || len(s) > 32 {
		return 0, &broker.RequestError{Detail: fmt.Sprintf("ttl %q is no duration of at least a second: write 10m, 90s or 1h", clip(s))}
	}
	return ttl.Truncate(time.Second), nil
}
