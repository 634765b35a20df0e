package redact_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/daypass/daypass/broker/redact"
)

// What docs/redaction.md shows.
func Example() {
	secrets := []string{"vR7qkP2mX9cT4bN8wL3sJ6hD1fG5zY0a"}
	file := strings.NewReader("password: " + secrets[0] + "\n")
	m, err := redact.New(redact.Config{Values: secrets, Shape: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	w := m.Writer(os.Stderr)                                        // io.WriteCloser; Close at the end of the stream
	r := m.Reader(file)                                             // io.Reader
	log := slog.New(m.Handler(slog.NewJSONHandler(os.Stderr, nil))) // messages, attributes, groups, errors

	log.Debug("nothing is written here")
	masked, err := io.ReadAll(r)
	fmt.Println(string(masked), err, w.Close())
	// Output:
	// password: [daypass:redacted]
	//  <nil> <nil>
}
