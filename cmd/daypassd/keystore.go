package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/migrations"
)

// keyStore opens keys, each token and folder once.
type keyStore struct {
	allowSoftware bool
	create        bool // makes keys that are missing
	createSigning bool // makes the first signing key of what became another installation
	tokens        map[string]token
	folders       map[string]*keys.Software
	logger        *slog.Logger // nil: nothing is logged
}

// token is an HSM's token, in this process or in one of its own.
type token interface {
	keys.Store
	io.Closer
	WithID(ckaID []byte) keys.Store
}

// openKeyStore makes keys only for an installation that has none: a mistyped
// label must not give a running one a new signing key.
func openKeyStore(ctx context.Context, settings *config.Config, database *pgxpool.Config) (*keyStore, error) {
	if err := requireDirect(ctx, settings, database); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, database.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("reaching the broker's database: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // it was read from
	if err := migrations.Check(ctx, conn); err != nil {
		return nil, err
	}
	first, err := installation.IsNew(ctx, conn)
	if err != nil {
		return nil, err
	}
	renewed, err := installation.NeedsSigningKey(ctx, conn)
	if err != nil {
		return nil, err
	}
	return &keyStore{allowSoftware: settings.AllowSoftwareKeys, create: first, createSigning: renewed}, nil
}

// Close lets go of the tokens.
func (s *keyStore) Close() error {
	var err error
	for _, t := range s.tokens {
		err = errors.Join(err, t.Close())
	}
	return err
}

func (s *keyStore) opened(ctx context.Context, k config.Key) (keys.Signer, error) {
	store, err := s.store(ctx, k)
	if err != nil {
		return nil, err
	}
	return store.OpenSigner(ctx, keys.Pair{Label: k.Label, Algorithm: k.Algorithm})
}

func (s *keyStore) signer(ctx context.Context, k config.Key) (keys.Signer, error) {
	store, err := s.store(ctx, k)
	if err != nil {
		return nil, err
	}
	pair := keys.Pair{Label: k.Label, Algorithm: k.Algorithm, Bits: k.Bits}
	signer, err := store.OpenSigner(ctx, pair)
	if s.create && errors.Is(err, keys.ErrNoKey) {
		return store.MakeSigner(ctx, pair)
	}
	return signer, err
}

// auditKey opens the key that signs checkpoints; nil where none is configured.
func (s *keyStore) auditKey(ctx context.Context, k *config.Key) (keys.Signer, error) {
	if k == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	signer, err := s.signer(ctx, *k)
	if errors.Is(err, keys.ErrNoKey) {
		return nil, fmt.Errorf("keys.audit: %w (hint: `daypassd keys generate --audit` makes it)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("keys.audit: %w", err)
	}
	return signer, nil
}

// signing says where the keys that sign JWTs are.
func (s *keyStore) signing(ctx context.Context, k config.Key) (instance.Signing, error) {
	store, err := s.store(ctx, k)
	return instance.Signing{
		Store: store, Pair: keys.Pair{Label: k.Label, Algorithm: k.Algorithm, Bits: k.Bits}, Create: s.create || s.createSigning, RotateEvery: k.RotateEvery,
	}, err
}

func (s *keyStore) sealer(ctx context.Context, k config.Key) (keys.Sealer, error) {
	store, err := s.store(ctx, k)
	if err != nil {
		return nil, err
	}
	sealer, err := store.OpenSealer(ctx, k.Label)
	if s.create && errors.Is(err, keys.ErrNoKey) {
		return store.MakeSealer(ctx, k.Label)
	}
	return sealer, err
}

// store opens where a key lives.
func (s *keyStore) store(ctx context.Context, k config.Key) (keys.Store, error) {
	if k.Type == config.KeySoftware {
		return s.software(k)
	}
	token, err := s.token(ctx, k)
	if err != nil {
		return nil, err
	}
	if len(k.ID) > 0 {
		return token.WithID(k.ID), nil
	}
	return token, nil
}

func (s *keyStore) software(k config.Key) (*keys.Software, error) {
	if !s.allowSoftware {
		return nil, errors.New("software keys are for development (hint: use type: pkcs11, or set allow_software_keys: true)")
	}
	pin, err := readPIN(k)
	if err != nil {
		return nil, err
	}
	name := k.Dir + "\x00" + k.PINFile
	if folder := s.folders[name]; folder != nil && k.PINFile != "" {
		return folder, nil
	}
	folder, err := keys.OpenSoftware(keys.SoftwareConfig{Dir: k.Dir, PIN: pin, Create: s.create})
	if err != nil {
		return nil, err
	}
	if s.folders == nil {
		s.folders = map[string]*keys.Software{}
	}
	s.folders[name] = folder
	return folder, nil
}

func (s *keyStore) token(ctx context.Context, k config.Key) (token, error) {
	settings := pkcs11.Config{
		Module: k.Module, TokenLabel: k.Token, Serial: k.Serial, Manufacturer: k.Manufacturer, Model: k.Model, SlotID: k.SlotID,
		WrappedBackup: k.Backup == config.BackupWrapped,
	}
	name := fmt.Sprintf("%q", []string{k.Module, k.Token, k.Serial, k.Manufacturer, k.Model, k.Backup})
	if k.SlotID != nil {
		name += strconv.FormatUint(uint64(*k.SlotID), 10)
	}
	if t, open := s.tokens[name]; open {
		return t, nil
	}
	pin, err := readPIN(k)
	if err != nil {
		return nil, err
	}
	settings.PIN = pin
	var t token
	if k.Isolate {
		t, err = isolateToken(ctx, k, settings, s.logger)
	} else {
		t, err = pkcs11.Open(ctx, settings)
	}
	if err != nil {
		return nil, err
	}
	if s.tokens == nil {
		s.tokens = map[string]token{}
	}
	s.tokens[name] = t
	return t, nil
}

func readPIN(k config.Key) (issuers.Secret, error) {
	if k.PINFile == "" {
		return k.PIN, nil
	}
	return readSecretFile(k.PINFile)
}

const maxSecretFile = 4 << 10

func readSecretFile(path string) (issuers.Secret, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return issuers.Secret{}, fmt.Errorf("reading a secret of the configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return issuers.Secret{}, fmt.Errorf("reading %s: %w", path, err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case text == "":
		return issuers.Secret{}, fmt.Errorf("%s is empty: a secret is expected in it", path)
	case len(data) > maxSecretFile:
		return issuers.Secret{}, fmt.Errorf("%s is larger than %d bytes: a secret alone is expected in it", path, maxSecretFile)
	}
	return issuers.NewSecret(text), nil
}
