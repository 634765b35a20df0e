package httpapi_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/instance"
)

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// perRequest reports the processor time of one request, whoever spends it.
func perRequest(b *testing.B, send func()) {
	b.Helper()
	send()
	began := cpu(b)
	for b.Loop() {
		send()
	}
	b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkFlood compares what a refused request costs the broker (the sender is
// a prepared text on an open connection, which costs next to nothing) with what it
// costs a sender that makes its requests with net/http (the server is a prepared
// answer). An address over its limit connects anew for each request; TLS is not
// part of it.
//
// On two busy cores: 110 to 120 µs a wrong signature, 60 for the sender. So the
// broker pays twice what such a sender pays, and more where the sender has its
// requests ready: what bounds a flood is that its checks take turns on half of the
// cores, and that over the limit each costs its sender a handshake, which takes
// about as much on either end (1.7 ms for both, with TLS 1.3).
func BenchmarkFlood(b *testing.B) {
	for name, limit := range map[string]int{"broker": 0, "broker, address over its limit": 1} {
		for token, make := range map[string]func(*brokertest.Broker) string{
			"no such issuer": func(x *brokertest.Broker) string {
				return x.Token(devkit.ProfileGitHub, map[string]any{"iss": "https://token.example.com"})
			},
			"wrong signature": badSignature,
		} {
			b.Run(name+"/"+token, func(b *testing.B) {
				x := brokertest.New(b, brokertest.Options{Limits: instance.Limits{FailedTokens: limit}})
				if a := x.TryExchange(x.Job(), "payments/sign"); a.Status != http.StatusOK {
					b.Fatalf("%d %s", a.Status, a.Body)
				}
				send := prepared(b, x, make(x))
				perRequest(b, send)
			})
		}
	}
	b.Run("sender", func(b *testing.B) {
		x := brokertest.New(b, brokertest.Options{})
		token := badSignature(x)
		url := "http://" + canned(b) + api.PathExchange
		perRequest(b, func() {
			request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, strings.NewReader(`{"grants":["payments/sign"]}`))
			if err != nil {
				b.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close() //nolint:errcheck // it was read to its end
		})
	})
}

// prepared sends one request again and again over one connection.
func prepared(b *testing.B, x *brokertest.Broker, token string) func() {
	b.Helper()
	var text bytes.Buffer
	request := x.Request(http.MethodPost, api.PathExchange, token, `{"grants":["payments/sign"]}`)
	if err := request.Write(&text); err != nil {
		b.Fatal(err)
	}
	conn := dial(b, strings.TrimPrefix(x.URL, "http://"))
	answers := bufio.NewReader(conn)
	return func() {
		if conn == nil {
			conn = dial(b, strings.TrimPrefix(x.URL, "http://"))
			answers.Reset(conn)
		}
		if _, err := conn.Write(text.Bytes()); err != nil {
			b.Fatal(err)
		}
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close() //nolint:errcheck // it was read to its end
		if response.StatusCode != http.StatusUnauthorized && response.StatusCode != http.StatusTooManyRequests {
			b.Fatalf("answered %d", response.StatusCode)
		}
		if response.Close {
			conn.Close() //nolint:errcheck // it was read to its end
			conn = nil
		}
	}
}

func dial(b *testing.B, address string) net.Conn {
	b.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(b.Context(), "tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

// canned is a server that answers whatever comes in one piece with the same text.
func canned(b *testing.B) string {
	b.Helper()
	var listen net.ListenConfig
	listener, err := listen.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() }) //nolint:errcheck // the benchmark is over
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() //nolint:errcheck // the other end has gone
				read := make([]byte, 64<<10)
				for {
					if _, err := conn.Read(read); err != nil {
						return
					}
					if _, err := conn.Write([]byte("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}
