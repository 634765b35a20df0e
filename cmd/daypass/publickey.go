package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

// maxPublicKey is what a broker takes.
const maxPublicKey = 16 << 10

// attachPublicKey reads the key that the one grant is to certify. path is the
// flag's; "" where it isn't given.
func attachPublicKey(request *api.ExchangeRequest, path string) error {
	if path == "" {
		return nil
	}
	if len(request.Grants) != 1 {
		return usage("--public-key goes with one grant")
	}
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	text, err := io.ReadAll(io.LimitReader(f, maxPublicKey+1))
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	line := strings.TrimSpace(string(text))
	// A private key must not leave the machine because its name lacked a .pub.
	if len(text) > maxPublicKey || line == "" || strings.ContainsAny(line, "\r\n\x00") || strings.HasPrefix(line, "-----") {
		return usage("%s holds no OpenSSH public key: one line is wanted; nothing was sent (hint: the file whose name ends in .pub)", path)
	}
	request.Grants[0].PublicKey = line
	return nil
}
