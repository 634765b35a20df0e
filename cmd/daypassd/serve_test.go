package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slow makes users of the target wait until open is called: as long as an
// exchange may take, where a lock would be given up earlier.
func (p place) slow(t *testing.T) (open func()) {
	t.Helper()
	p.sql(t, `CREATE TABLE public.gate (open boolean)`,
		`CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			WHILE NOT EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$`,
		`GRANT SELECT ON public.gate TO PUBLIC`,
		`CREATE TRIGGER wait BEFORE INSERT ON daypass.users FOR EACH ROW EXECUTE FUNCTION public.wait()`)
	return func() { p.sql(t, `INSERT INTO public.gate VALUES (true)`) }
}

// waiting waits until an exchange is on its way to the target.
func (p place) waiting(t *testing.T) {
	t.Helper()
	eventually(t, "an exchange reaches the target", func() bool {
		return query(t, p.database, `SELECT count(*) FROM leases WHERE state = 'issuing' AND grant_name = 'deploy-db'`) == "1"
	})
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	open := p.slow(t)
	broker, base := p.serve(t)

	// A connection that is kept alive, and an exchange that hangs.
	kept := newClient(t)
	if a, err := send(kept, http.MethodGet, base+"/readyz", ""); err != nil || a.StatusCode != http.StatusOK {
		t.Fatal(a.body, err)
	}
	type result struct {
		answer
		err error
	}
	finished := make(chan result, 1)
	token, client := jobToken(t, provider), newClient(t)
	go func() {
		a, err := send(client, http.MethodPost, base+deployDB, token)
		finished <- result{a, err}
	}()
	p.waiting(t)

	broker.signal(t, syscall.SIGTERM)
	broker.await(t, "stopping")
	var reused bool
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
	}), http.MethodPost, base+deployDB, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+jobToken(t, provider))
	response, err := kept.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || !bytes.Contains(body, []byte(`"code":"unavailable"`)) {
		t.Errorf("a new exchange got %s, Retry-After %q: %s", response.Status, response.Header.Get("Retry-After"), body)
	}
	if !reused {
		t.Error("the kept-alive connection was closed")
	}
	if a, err := send(kept, http.MethodGet, base+"/readyz", ""); err != nil || a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.body, "shutting down") {
		t.Error("readyz:", a.body, err)
	}
	select {
	case r := <-finished:
		t.Fatal("the exchange didn't wait:", r.body, r.err)
	default:
	}
	open()
	if r := <-finished; r.err != nil || r.StatusCode != http.StatusOK || !strings.Contains(r.body, `"PGPASSWORD":"dpp_`) {
		t.Error("the running exchange:", r.body, r.err)
	}
	if state := broker.ended(t); state.ExitCode() != 0 {
		t.Error("it ended with", state)
	}

	// The next one goes on where this one ended.
	_, base = p.serve(t)
	if a := exchange(t, base+deployDB, jobToken(t, provider)); a.StatusCode != http.StatusOK {
		t.Error("after the restart:", a.body)
	}
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	open := p.slow(t)
	broker, base := p.serve(t)
	client, token := newClient(t), jobToken(t, provider)
	failed := make(chan error, 1)
	go func() {
		_, err := send(client, http.MethodPost, base+deployDB, token)
		failed <- err
	}()
	p.waiting(t)
	broker.signal(t, syscall.SIGINT)
	broker.await(t, "stopping")
	if !broker.running() {
		t.Fatal("it didn't wait for the exchange")
	}
	eventually(t, "the second signal ends it", func() bool {
		_ = broker.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
		return !broker.running()
	})
	if state := broker.ended(t); !hasEndedBy(state, syscall.SIGTERM) {
		t.Error("it ended with", state)
	}
	if err := <-failed; err == nil {
		t.Error("the exchange got an answer")
	}
	open()
}

func TestRequests(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	// A schema that a later version has migrated.
	query(t, p.database, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
	// Another address than the file's, where the machine has one: macOS doesn't.
	host := "127.0.0.2"
	if spare, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", host+":0"); err != nil {
		host = "127.0.0.1"
	} else if err := spare.Close(); err != nil {
		t.Fatal(err)
	}
	broker, base := p.serve(t, "DAYPASSD_LISTEN="+host+":0", "DAYPASSD_LOG__LEVEL=debug")
	if !strings.HasPrefix(base, "http://"+host+":") {
		t.Errorf("it listens on %s", base)
	}
	ids := map[string]string{}
	get := func(method, path, token string, want int) answer {
		a := call(t, method, base+path, token)
		if a.StatusCode != want {
			t.Errorf("%s %s: %s, want %d: %s", method, path, a.Status, want, a.body)
		}
		ids[a.Header.Get("X-Request-Id")] = method
		return a
	}
	get(http.MethodGet, "/livez", "", http.StatusOK)
	get(http.MethodGet, "/metrics", "", http.StatusOK)
	get(http.MethodGet, "/nowhere", "", http.StatusNotFound)
	token := jobToken(t, provider)
	got := get(http.MethodPost, deployDB, token, http.StatusOK)
	get(http.MethodPost, deployDB, "no.job.token", http.StatusUnauthorized)

	// What an admin may, and for how long.
	admin := strings.TrimSpace(runProgram(t, nil, "admin", "token", "create", "--config", p.config, "--role", "viewer", "--owner", "ana", "--ttl", "1h"))
	if a := get(http.MethodGet, "/v1/leases", admin, http.StatusOK); !strings.Contains(a.body, "lse_") {
		t.Error("no lease is listed:", a.body)
	}
	list := runProgram(t, nil, "admin", "token", "list", "--config", p.config)
	id := list[strings.Index(list, "adm_"):]
	runProgram(t, nil, "admin", "token", "revoke", "--config", p.config, id[:strings.Index(id, " ")])
	get(http.MethodGet, "/v1/leases", admin, http.StatusUnauthorized)

	for _, size := range []int{63 << 10, 65 << 10} {
		status := bigHeaders(t, base, size)
		if large := strings.Contains(status, " 431 "); large != (size > 64<<10) {
			t.Errorf("headers of %d bytes: %s", size, status)
		}
	}
	broker.stop(t, syscall.SIGTERM)

	lines := map[string]int{}
	for _, e := range broker.entries(t, "request") {
		lines[e.text(t, "request_id")]++
		if e["method"] == nil || e["route"] == nil || e["status"] == nil || e["took_ms"] == nil || e["remote"] == nil {
			t.Error("a line lacks something:", e)
		}
	}
	for id, method := range ids {
		if lines[id] != 1 {
			t.Errorf("%d lines for the request %s (%s)", lines[id], id, method)
		}
	}
	log := strings.Join(broker.log(), "\n")
	credentials, _ := got.field(t, "credentials").([]any)
	values, _ := credentials[0].(map[string]any)["values"].(map[string]any)
	for what, secret := range map[string]any{"job token": token, "admin token": admin, "session token": got.field(t, "session", "token"), "password": values["password"], "broker's password": targetPassword} {
		if text, ok := secret.(string); !ok || text == "" || strings.Contains(log, text) {
			t.Errorf("the log holds the %s, or there was none", what)
		}
	}
}

// bigHeaders sends headers of that size and returns the status line.
func bigHeaders(t *testing.T, base string, size int) string {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: deadline}).DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it was read from
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	text := "GET /livez HTTP/1.1\r\nHost: daypass\r\nX-Filler: \r\n\r\n"
	text = strings.Replace(text, "X-Filler: ", "X-Filler: "+strings.Repeat("x", size-len(text)), 1)
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ := strings.Cut(string(buffer[:n]), "\r\n")
	return status
}

func TestAdminListener(t *testing.T) {
	t.Parallel()
	p, _ := newBroker(t)
	broker, base := p.serve(t, "DAYPASSD_ADMIN_LISTEN=127.0.0.1:00")
	operations := "http://" + broker.await(t, "serving").text(t, "admin_address")
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		if a := call(t, http.MethodGet, operations+path, ""); a.StatusCode != http.StatusOK {
			t.Errorf("%s on the admin listener: %s", path, a.Status)
		}
		if a := call(t, http.MethodGet, base+path, ""); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s on the main listener: %s", path, a.Status)
		}
	}
	if a := call(t, http.MethodPost, operations+deployDB, "x"); a.StatusCode != http.StatusNotFound {
		t.Errorf("an exchange on the admin listener: %s", a.Status)
	}
	if a := call(t, http.MethodGet, base+"/.well-known/jwks.json", ""); a.StatusCode != http.StatusOK {
		t.Errorf("keys on the main listener: %s", a.Status)
	}
	broker.stop(t, syscall.SIGTERM)
}

// certificate makes a self-signed pair, as PEM.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	p, _ := newBroker(t)
	certFile, keyFile := filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem")
	put := func(cert, key string) {
		t.Helper()
		if cert != "" {
			write(t, certFile, cert)
		}
		if key != "" {
			write(t, keyFile, key)
		}
	}
	firstCert, firstKey := certificate(t, "first")
	secondCert, secondKey := certificate(t, "second")
	put(firstCert, firstKey)
	broker, base := p.serve(t, "DAYPASSD_TLS__CERT_FILE="+certFile, "DAYPASSD_TLS__KEY_FILE="+keyFile, "DAYPASSD_ADMIN_LISTEN=127.0.0.1:00")
	address := strings.TrimPrefix(base, "http://")
	// shown is the name in the certificate of a new handshake.
	shown := func(address string) string {
		t.Helper()
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // it was read from
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(firstCert))
	client := &http.Client{Timeout: deadline, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(client.CloseIdleConnections)
	a, err := send(client, http.MethodGet, "https://"+address+"/.well-known/jwks.json", "")
	if err != nil || a.StatusCode != http.StatusOK || a.ProtoMajor != 2 {
		t.Fatal("over TLS:", a.body, err)
	}
	if a := call(t, http.MethodGet, base+"/.well-known/jwks.json", ""); a.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP to a TLS port: %s", a.Status)
	}
	if got := shown(broker.await(t, "serving").text(t, "admin_address")); got != "first" {
		t.Errorf("the admin listener shows %s", got)
	}

	put(secondCert, "") // half of a renewal
	for range 3 {
		if got := shown(address); got != "first" {
			t.Errorf("with half of a renewal it shows %s", got)
		}
	}
	if n := len(broker.entries(t, "the TLS certificate could not be read again")); n != 1 {
		t.Errorf("%d warnings of it", n)
	}
	put("", secondKey)
	if got := shown(address); got != "second" {
		t.Errorf("after the renewal it shows %s", got)
	}
	put("nonsense", "")
	if got := shown(address); got != "second" {
		t.Errorf("with a broken file it shows %s", got)
	}
	if !broker.running() {
		t.Fatal("it ended")
	}
	broker.stop(t, syscall.SIGTERM)

	// At the start there is no former one to keep.
	broken := start(t, []string{"DAYPASSD_TLS__CERT_FILE=" + certFile, "DAYPASSD_TLS__KEY_FILE=" + keyFile}, "serve", "--config", p.config)
	if state := broken.ended(t); state.ExitCode() != exitFailed || !strings.Contains(fmt.Sprint(broken.log()), "daypassd: reading TLS certificate: ") {
		t.Errorf("with a broken certificate it ended with %s: %q", state, broken.log())
	}
}
