package vaultapi_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/brokertest"
)

// TestClients replays what clients sent, header by header, and looks for what they
// read of the answers. In testdata a request is its lines, and behind it `< STATUS`
// with the members that must be there. {{jwt}}, {{token}} and {{lease}} are a job
// token and what the last answers gave.
func TestClients(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d recordings, %v", len(files), err)
	}
	b := newBroker(t, brokertest.Options{})
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := &replay{t: t, b: b, known: strings.NewReplacer("{{jwt}}", b.Job())}
			// consul-template is given its token.
			r.learn(login(t, b, b.Job(), "deploy").token, "")
			n := 0
			var request strings.Builder
			for line := range strings.Lines(string(text)) {
				switch {
				case strings.HasPrefix(line, "# "), request.Len() == 0 && strings.TrimSpace(line) == "":
				case strings.HasPrefix(line, "< "):
					n++
					r.send(fmt.Sprintf("request %d", n), request.String(), strings.Fields(line)[1:])
					request.Reset()
				default:
					request.WriteString(line)
				}
			}
			if n < 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

type replay struct {
	t            *testing.T
	b            *brokertest.Broker
	known        *strings.Replacer
	token, lease string
}

func (r *replay) learn(token, lease string) {
	if token != "" {
		r.token = token
	}
	if lease != "" {
		r.lease = lease
	}
}

func (r *replay) send(what, recorded string, want []string) {
	r.t.Helper()
	text := strings.NewReplacer("{{token}}", r.token, "{{lease}}", r.lease).Replace(r.known.Replace(recorded))
	head, body, _ := strings.Cut(text, "\n\n")
	body = strings.TrimRight(body, "\n")
	first, headers, _ := strings.Cut(head, "\n")
	raw := first + " HTTP/1.1\r\nHost: daypass.example\r\nConnection: close\r\n"
	for line := range strings.Lines(headers) {
		raw += strings.TrimRight(line, "\n") + "\r\n"
	}
	raw += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.b.URL, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the answer was read
	if _, err := conn.Write([]byte(raw)); err != nil {
		r.t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // it is read to its end below
	answer := map[string]any{}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil && response.StatusCode != http.StatusNoContent {
		r.t.Errorf("%s: %v", what, err)
	}
	if fmt.Sprint(response.StatusCode) != want[0] {
		r.t.Fatalf("%s: %s: %d %v, want %s", what, first, response.StatusCode, answer["errors"], want[0])
	}
	for _, path := range want[1:] {
		if text, ok := member(answer, path).(string); !ok || text == "" {
			r.t.Errorf("%s: the answer has no %s", what, path)
		}
	}
	token, _ := member(answer, "auth.client_token").(string)
	lease, _ := answer["lease_id"].(string)
	if !strings.HasPrefix(lease, "database/") {
		lease = ""
	}
	r.learn(r.b.Hide(token), lease)
}

func member(of any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		object, _ := of.(map[string]any)
		of = object[name]
	}
	return of
}
