package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/issuers"
)

const (
	connectTimeout = 5 * time.Second
	idleTime       = 5 * time.Minute
	// Plans of a session are made for the catalogs as they were: a new session now and then.
	lifetime = 15 * time.Minute
)

// pool prepares connections to one database, and makes none.
func (i *Issuer) pool(ctx context.Context, database string, size int) (*pgxpool.Pool, error) {
	t := i.config.Target
	words := []string{
		"host=" + quoteWord(t.Host), "port=" + strconv.Itoa(t.Port), "user=" + quoteWord(i.config.Admin.User),
		"dbname=" + quoteWord(database), "sslmode=" + t.SSLMode, "connect_timeout=" + strconv.Itoa(int(connectTimeout.Seconds())),
		// Set, so that no file of the account's home is looked at; the real one comes with each connection.
		"password=unset",
	}
	if t.CAFile != "" {
		words = append(words, "sslrootcert="+quoteWord(t.CAFile))
	}
	config, err := pgxpool.ParseConfig(strings.Join(words, " "))
	if err != nil {
		return nil, fmt.Errorf("preparing connections to database %s: %s", database, plain(err.Error()))
	}
	config.MaxConns = int32(size) //nolint:gosec // bounded by Config
	config.MinConns = 0
	config.MaxConnIdleTime = idleTime
	config.MaxConnLifetime = lifetime
	config.ConnConfig.RuntimeParams = map[string]string{
		"application_name":  "daypass",
		"search_path":       "pg_catalog",
		"statement_timeout": milliseconds(i.config.StatementTimeout),
		"lock_timeout":      milliseconds(i.config.LockTimeout),
		"client_encoding":   "UTF8",
		"timezone":          "UTC",
		"datestyle":         "ISO",
	}
	if i.config.Epoch != 0 {
		config.ConnConfig.RuntimeParams["daypass.epoch"] = strconv.FormatInt(i.config.Epoch, 10)
	}
	config.ConnConfig.Fallbacks = nil
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		password, err := i.password.read()
		if err != nil {
			return err
		}
		c.Password = password.Reveal()
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to database %s: %s", database, plain(err.Error()))
	}
	return pool, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// quoteWord writes a value of a libpq connection string.
func quoteWord(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// passwordSource gives the admin's password at each connect, and says when it
// was changed behind the broker's back.
type passwordSource struct {
	admin  Admin
	warn   func(file string)
	mu     sync.Mutex
	digest [sha256.Size]byte // of what was read last
	known  bool
}

const maxPasswordFile = 4096

func (p *passwordSource) read() (issuers.Secret, error) {
	if p.admin.PasswordFile == "" {
		return p.admin.Password, nil
	}
	text, err := os.ReadFile(p.admin.PasswordFile)
	if err != nil {
		return issuers.Secret{}, fmt.Errorf("reading the admin's password: %w", err)
	}
	if len(text) > maxPasswordFile {
		return issuers.Secret{}, fmt.Errorf("reading the admin's password: %s is longer than %d bytes", p.admin.PasswordFile, maxPasswordFile)
	}
	password := strings.TrimRight(string(text), "\r\n")
	digest := sha256.Sum256([]byte(password))
	p.mu.Lock()
	changed := p.known && p.digest != digest
	p.digest, p.known = digest, true
	p.mu.Unlock()
	if changed {
		p.warn(p.admin.PasswordFile)
	}
	return issuers.NewSecret(password), nil
}
