package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/redact"
)

// defaultField is the field of a secret that has one and gives it no name.
const defaultField = "value"

// secretPut is what the flags of `secret put` say.
type secretPut struct {
	description, owner, rotateEvery, hook string
	rotateFields                          []string
	field, file                           string
	stdin, keepNewline, replace           bool
	more                                  []string // FIELD=FILE
	randomBits                            []string // FIELD=BITS
}

func (p *program) secretPutCommand() *cobra.Command {
	var put secretPut
	cmd := &cobra.Command{
		Use: "put NAME", Short: "Make a static secret, or a new version of one", Args: exactly(1, "NAME"),
		Long: `Put makes a pending version of a secret from a file or standard input, never from an
argument, and the secret itself where there is none of that name. Nobody gets the
version before it was verified and promoted. Without a value, put changes what is
known of the secret.

One newline at the end of a value is left out, unless --keep-newline is given.`,
		Example: `  daypass secret put payments/stripe-key --owner payments@example.com --rotate-every 2160h --file key.txt
  pass show stripe | daypass secret put payments/stripe-key --stdin
  daypass secret put payments/legacy/login --field-file username=user.txt --field-file password=pw.txt
  daypass secret put payments/legacy/login --hook rotator --rotate-field password`,
	}
	out := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&put.file, "file", "", "read the value from a file")
	flags.BoolVar(&put.stdin, "stdin", false, "read the value from standard input")
	flags.StringVar(&put.field, "field", defaultField, "which field --file or --stdin is")
	flags.StringArrayVar(&put.more, "field-file", nil, "one more field, as FIELD=FILE; may be repeated")
	flags.StringArrayVar(&put.randomBits, "random-bits", nil, "how many bits of a field nobody can guess, as FIELD=BITS: 128 and more are looked for in leaks")
	flags.BoolVar(&put.keepNewline, "keep-newline", false, "keep a newline at the end of a value")
	flags.BoolVar(&put.replace, "replace", false, "destroy a pending version that is in the way")
	flags.StringVar(&put.owner, "owner", "", "who answers for it; required of a new one")
	flags.StringVar(&put.description, "description", "", "what it is for")
	flags.StringVar(&put.rotateEvery, "rotate-every", "", "how long a value may stay current, like 2160h; 0s for ever")
	flags.StringArrayVar(&put.rotateFields, "rotate-field", nil, "a field that a rotation makes up anew; may be repeated (default: all)")
	flags.StringVar(&put.hook, "hook", "", `what rotates it: generate, one of the server's hooks, or "" for a person`)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request, err := p.secretRequest(cmd, &put)
		if err != nil {
			return err
		}
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		secret, err := c.PutSecret(cmd.Context(), token, args[0], *request)
		if err != nil {
			return err
		}
		return p.printChanged(secret, *out)
	}
	return cmd
}

// secretRequest turns the flags that were given into a request.
func (p *program) secretRequest(cmd *cobra.Command, put *secretPut) (*api.SecretPut, error) {
	request := &api.SecretPut{Replace: put.replace}
	for flag, set := range map[string]func(){
		"owner":        func() { request.Owner = &put.owner },
		"description":  func() { request.Description = &put.description },
		"rotate-every": func() { request.RotateEvery = &put.rotateEvery },
		"rotate-field": func() { request.RotateFields = &put.rotateFields },
		"hook":         func() { request.Hook = &put.hook },
	} {
		if cmd.Flags().Changed(flag) {
			set()
		}
	}
	if err := p.readFields(put, request); err != nil {
		return nil, err
	}
	if len(request.Values) == 0 && (put.replace || cmd.Flags().Changed("field") || len(put.randomBits) > 0) {
		return nil, usage("no value given (hint: --file, --stdin or --field-file)")
	}
	for _, text := range put.randomBits {
		field, bits, _ := strings.Cut(text, "=")
		n, err := strconv.Atoi(bits)
		if _, there := request.Values[field]; err != nil || !there || n < 0 {
			return nil, usage("--random-bits %s: write FIELD=BITS, of a field that is given", text)
		}
		if request.RandomBits == nil {
			request.RandomBits = map[string]int{}
		}
		request.RandomBits[field] = n
	}
	return request, nil
}

func (p *program) readFields(put *secretPut, request *api.SecretPut) error {
	read := func(field, file string) error {
		if _, twice := request.Values[field]; twice {
			return usage("the field %s is given twice", field)
		}
		value, err := p.readValue(file, put.keepNewline)
		if err != nil {
			return err
		}
		if redact.Common(value) {
			p.say("warning: %s is too short or too common to be masked in a log: no job gets it, unless its role lists the field under `visible`", field)
		}
		if request.Values == nil {
			request.Values = map[string]string{}
		}
		request.Values[field] = value
		return nil
	}
	switch {
	case put.stdin && put.file != "":
		return usage("--file and --stdin are both given: name one of them with --field-file")
	case put.stdin && p.tokenFile == "-":
		return usage("the token and the value can't both come from standard input")
	case put.stdin:
		if err := read(put.field, "-"); err != nil {
			return err
		}
	case put.file != "":
		if err := read(put.field, put.file); err != nil {
			return err
		}
	}
	for _, text := range put.more {
		field, file, ok := strings.Cut(text, "=")
		if !ok || field == "" || file == "" || file == "-" {
			return usage("--field-file: write FIELD=FILE")
		}
		if err := read(field, file); err != nil {
			return err
		}
	}
	return nil
}

// readValue reads a value whole; its errors hold nothing of it.
func (p *program) readValue(file string, keepNewline bool) (string, error) {
	from := p.stdin
	if file != "-" {
		f, err := os.Open(file) //nolint:gosec // the file that the caller names is the one to read
		if err != nil {
			return "", fmt.Errorf("reading value: %w", err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, api.MaxBody+1))
	if err != nil {
		return "", fmt.Errorf("reading value: %w", err)
	}
	text := string(data)
	if !keepNewline {
		text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	}
	switch {
	case len(data) > api.MaxBody:
		return "", fmt.Errorf("reading value: %s has more than %d bytes", file, api.MaxBody)
	case text == "":
		return "", fmt.Errorf("reading value: %s is empty", file)
	}
	return text, nil
}
