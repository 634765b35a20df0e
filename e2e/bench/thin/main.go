// Command thin is the limit of an exchange for a signed JWT: a server that does
// the work that can't be left out, with the libraries that the broker uses, and
// nothing else.
//
//   - echo answers,
//   - go-oidc checks the RS256 job token against a key set in memory,
//   - a compiled CEL condition of five clauses decides,
//   - the HSM signs a JWT with ES256,
//   - one row of the lease is durable before the answer (journal.go).
//
// It keeps no session, no audit trail, nothing that could be revoked: it is a
// measure, and no broker. The bench starts it; see package main above.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cel.dev/cel-go/cel"
	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "thin:", err)
		os.Exit(1)
	}
}

// options are the flags: paths of files, except where they say otherwise.
type options struct {
	database, condition, pin string
	issuer, jwks, audience   string // of the job tokens
	module, token, dir       string // no module: software keys in dir
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("thin", flag.ContinueOnError)
	flags.StringVar(&o.database, "database", "", "file with the database's URL")
	flags.StringVar(&o.condition, "condition", "", "file with the CEL condition")
	flags.StringVar(&o.pin, "pin", "", "file with the PIN")
	flags.StringVar(&o.issuer, "issuer", "", "the job tokens' iss")
	flags.StringVar(&o.jwks, "jwks", "", "URL of the provider's key set")
	flags.StringVar(&o.audience, "audience", "", "the job tokens' aud")
	flags.StringVar(&o.module, "module", "", "path of the PKCS#11 module; empty: software keys")
	flags.StringVar(&o.token, "token", "", "label of the PKCS#11 token")
	flags.StringVar(&o.dir, "keys", "", "folder of software keys")
	return o, flags.Parse(args)
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	signer, closeKeys, err := openSigner(ctx, o)
	if err != nil {
		return err
	}
	defer closeKeys()
	keySet, err := fetchKeys(ctx, o.jwks)
	if err != nil {
		return err
	}
	allowed, err := compile(o.condition)
	if err != nil {
		return err
	}
	journal, err := openJournal(ctx, o.database)
	if err != nil {
		return err
	}
	defer journal.close()
	e := &exchanger{
		verifier: gooidc.NewVerifier(o.issuer, keySet, &gooidc.Config{ClientID: o.audience}),
		allowed:  allowed, signer: signer, journal: journal,
	}
	return serve(ctx, e.routes())
}

// signingLabel is a key of this program's own, in the token of the broker's.
const signingLabel = "thin-signing"

func openSigner(ctx context.Context, o options) (keys.Signer, func(), error) {
	text, err := os.ReadFile(o.pin)
	if err != nil {
		return nil, nil, err
	}
	pin := issuers.NewSecret(strings.TrimSpace(string(text)))
	if o.module == "" {
		folder, err := keys.OpenSoftware(keys.SoftwareConfig{Dir: o.dir, PIN: pin, Create: true})
		if err != nil {
			return nil, nil, err
		}
		signer, err := openOrMake(ctx, folder)
		return signer, func() {}, err
	}
	token, err := pkcs11.Open(ctx, pkcs11.Config{Module: o.module, TokenLabel: o.token, PIN: pin})
	if err != nil {
		return nil, nil, err
	}
	closeToken := func() { _ = token.Close() } // the program ends
	signer, err := openOrMake(ctx, token)
	if err != nil {
		closeToken()
		return nil, nil, err
	}
	return signer, closeToken, nil
}

func openOrMake(ctx context.Context, store keys.Store) (issuers.Signer, error) {
	pair := keys.Pair{Label: signingLabel}
	signer, err := store.OpenSigner(ctx, pair)
	if errors.Is(err, keys.ErrNoKey) {
		return store.MakeSigner(ctx, pair)
	}
	return signer, err
}

func fetchKeys(ctx context.Context, url string) (*gooidc.StaticKeySet, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetching the provider's keys: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // it was read to the end
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("fetching the provider's keys: %w", err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("reading the provider's keys: %w", err)
	}
	static := &gooidc.StaticKeySet{}
	for _, key := range set.Keys {
		static.PublicKeys = append(static.PublicKeys, key.Key)
	}
	return static, nil
}

func compile(file string) (cel.Program, error) {
	text, err := os.ReadFile(file) //nolint:gosec // G304: the bench names the file
	if err != nil {
		return nil, err
	}
	env, err := cel.NewEnv(cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, err
	}
	tree, issues := env.Compile(string(text))
	if issues.Err() != nil {
		return nil, fmt.Errorf("compiling the condition: %w", issues.Err())
	}
	return env.Program(tree)
}

func serve(ctx context.Context, handler http.Handler) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 15 * time.Second}
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).InfoContext(ctx, "serving", "address", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(stopping)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
