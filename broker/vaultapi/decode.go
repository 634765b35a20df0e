package vaultapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/daypass/daypass/broker/api"
)

// fields are the members of a body. Those that nobody asks for are left aside, as
// Vault does: its clients send more than they need.
type fields map[string]json.RawMessage

// body reads a JSON object, or nothing, whatever the content type says: Go clients
// send none, and curl's -d says that it is a form.
func (c *call) body() (fields, error) {
	if c.sent != nil {
		return c.sent, nil
	}
	var err error
	c.sent, err = c.read()
	return c.sent, err
}

func (c *call) read() (fields, error) {
	data, err := io.ReadAll(io.LimitReader(c.r.Body, api.MaxBody+1))
	switch {
	case err != nil:
		return nil, badRequest("the body could not be read to its end")
	case len(data) > api.MaxBody:
		return nil, &refusal{status: http.StatusRequestEntityTooLarge, code: api.CodeTooLarge, texts: []string{"the body is larger than 64 KiB"}}
	case !utf8.Valid(data):
		return nil, badRequest("the body is not valid UTF-8")
	}
	data = bytes.Trim(data, " \t\r\n")
	if len(data) == 0 || string(data) == "null" {
		return fields{}, nil
	}
	return decode(data)
}

// decode reads one object, each of its members once, and nothing behind it.
// encoding/json alone would take the last of two, and "JWT" for "jwt".
func decode(data []byte) (fields, error) {
	bad := badRequest("failed to parse JSON input: the body must be one JSON object")
	decoder := json.NewDecoder(bytes.NewReader(data))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, bad
	}
	found := fields{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, bad
		}
		name, _ := key.(string)
		if _, twice := found[name]; twice {
			return nil, badRequest("failed to parse JSON input: a member stands twice")
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, bad
		}
		found[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, bad
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, bad
	}
	return found, nil
}

// text is a string member; "" where it is missing or null.
func (f fields) text(name string) (string, error) {
	raw, ok := f[name]
	if !ok {
		return "", nil
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", badRequest(name + " is a string")
	}
	if text == nil {
		return "", nil
	}
	return *text, nil
}

const mostIncrement = 366 * 24 * time.Hour

// increment is how much longer a lease is to live: seconds, as a number or a string,
// or a duration. 0 where it isn't said.
func (f fields) increment() (time.Duration, error) {
	raw, ok := f["increment"]
	if !ok || string(raw) == "null" {
		return 0, nil
	}
	text := string(raw)
	if raw[0] == '"' {
		var err error
		if text, err = f.text("increment"); err != nil {
			return 0, err
		}
	}
	if text == "" {
		return 0, nil
	}
	asked, err := time.ParseDuration(text)
	if n, number := strconv.ParseFloat(text, 64); number == nil {
		asked, err = time.Duration(min(n, mostIncrement.Seconds()))*time.Second, nil
		if n < 0 || n != n {
			asked = -1
		}
	}
	if err != nil || asked < 0 {
		return 0, badRequest("increment is a number of seconds, or a duration such as 10m")
	}
	return min(asked, mostIncrement).Truncate(time.Second), nil
}
