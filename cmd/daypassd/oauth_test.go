package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/config"
)

// TestClientCertificateReachesTheCalls: a listener asks for one where a resource
// server has one, lets in whoever has none, and leaves it to the call to know whose
// it is.
func TestClientCertificateReachesTheCalls(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "broker")
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, certFile, cert)
	write(t, keyFile, key)
	ownCert, ownKey := certificate(t, "ledger") // it signed it itself
	own, err := tls.X509KeyPair([]byte(ownCert), []byte(ownKey))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(own.Certificate[0])
	settings := &config.Config{TLS: config.TLS{CertFile: certFile, KeyFile: keyFile}}
	shown := func(settings *config.Config, certificates ...tls.Certificate) [sha256.Size]byte {
		t.Helper()
		listener, err := listen(t.Context(), "127.0.0.1:0", settings, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		seen := make(chan [sha256.Size]byte, 1)
		server := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var sum [sha256.Size]byte
			if len(r.TLS.PeerCertificates) > 0 {
				sum = sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
			}
			seen <- sum
		}), slog.New(slog.DiscardHandler))
		done := make(chan error, 1)
		go func() { done <- server.Serve(listener) }()
		defer func() {
			_ = server.Close()
			if err := <-done; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}()
		client := &http.Client{Timeout: deadline, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates},
		}}
		a, err := send(client, http.MethodPost, "https://"+listener.Addr().String()+"/", "")
		if err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", a, err)
		}
		select {
		case sum := <-seen:
			return sum
		case <-time.After(deadline):
			t.Fatal("no request came")
		}
		return [sha256.Size]byte{}
	}
	var none [sha256.Size]byte
	if got := shown(settings, own); got != none {
		t.Error("a certificate was asked for, for nobody")
	}
	settings.ResourceServers = []config.ResourceServer{{Name: "ledger", ClientCertificateSHA256: hex.EncodeToString(sum[:]), Audiences: []string{"https://ledger.example.com"}}}
	if got := shown(settings, own); got != sum {
		t.Errorf("the calls see %x", got)
	}
	if got := shown(settings); got != none {
		t.Errorf("of a client without one the calls see %x", got)
	}
	known := oauth(settings)
	if len(known.Servers) != 1 || known.Servers[0].Certificate != sum || known.Servers[0].Secret != none || !strings.HasPrefix(known.Servers[0].Audiences[0], "https://") {
		t.Errorf("%+v", known)
	}
}
