package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/issuers"
)

const (
	// confVariable tells SoftHSM where its configuration is; it looks at
	// C_Initialize.
	confVariable = "SOFTHSM2_CONF"
	confName     = "softhsm2.conf"
	// moduleVariable overrides where FindSoftHSM looks.
	moduleVariable = "DAYPASS_SOFTHSM_MODULE"
)

// FindSoftHSM finds the SoftHSM module: where DAYPASS_SOFTHSM_MODULE says, and
// nowhere else when it is set; otherwise in the usual places of Debian, Ubuntu,
// Fedora, Alpine and Homebrew.
func FindSoftHSM() (module string, ok bool) {
	if named := os.Getenv(moduleVariable); named != "" {
		return named, isFile(named)
	}
	triplet := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux-gnu"
	for _, path := range []string{
		"/usr/lib/softhsm/libsofthsm2.so", // Debian, Ubuntu, Alpine
		filepath.Join("/usr/lib", triplet, "softhsm/libsofthsm2.so"),
		"/usr/lib64/pkcs11/libsofthsm2.so", // Fedora
		"/usr/lib64/softhsm/libsofthsm.so", // Fedora, earlier
		"/usr/lib64/libsofthsm2.so",
		"/usr/lib/pkcs11/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",    // from source; Homebrew on Intel
		"/opt/homebrew/lib/softhsm/libsofthsm2.so", // Homebrew
		"/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so",
	} {
		if isFile(path) {
			return path, true
		}
	}
	return "", false
}

func isFile(path string) bool {
	info, err := os.Stat(path) //nolint:gosec // the operator names it
	return err == nil && info.Mode().IsRegular()
}

// SoftHSMConfig says which SoftHSM token to make.
type SoftHSMConfig struct {
	Dir        string         // holds softhsm2.conf and the tokens; made with mode 0700 when missing; required
	Module     string         // path of the SoftHSM library; empty: FindSoftHSM
	TokenLabel string         // at most 32 bytes; required
	SOPIN      issuers.Secret // of the security officer, who can only reset the PIN; at least 4 bytes, required
	PIN        issuers.Secret // of the user; at least 4 bytes, required
}

// InitSoftHSM makes a folder with a SoftHSM token in it, through PKCS#11 itself,
// and makes this process use it, as [UseSoftHSM] does. A token of that label that
// is there already is left as it is, with the PIN that it has.
//
// SoftHSM reads one configuration per process, when its first user opens it:
// InitSoftHSM is an error while another folder is in use.
func InitSoftHSM(ctx context.Context, config SoftHSMConfig) error {
	if err := config.complete(); err != nil {
		return fmt.Errorf("making SoftHSM token: %w", err)
	}
	conf, err := writeConf(config.Dir)
	if err != nil {
		return fmt.Errorf("making SoftHSM token %s: %w", config.TokenLabel, err)
	}
	if err := UseSoftHSM(config.Dir); err != nil {
		return err
	}
	m, err := acquireModule(ctx, config.Module)
	if err != nil {
		return fmt.Errorf("making SoftHSM token %s: %w", config.TokenLabel, err)
	}
	if used := m.initializedWith(); used != conf {
		err = fmt.Errorf("SoftHSM is already in use with %s (hint: one process, one folder)", used)
	} else if err = context.Cause(ctx); err == nil {
		err = m.initToken(ctx, config)
	}
	if err := errors.Join(err, m.release()); err != nil {
		return fmt.Errorf("making SoftHSM token %s: %w", config.TokenLabel, err)
	}
	return nil
}

// UseSoftHSM makes this process use the tokens of a folder that [InitSoftHSM]
// made, by setting SOFTHSM2_CONF. Call it before [Open]: SoftHSM looks at it only
// while nobody in the process uses it.
func UseSoftHSM(dir string) error {
	conf, err := filepath.Abs(filepath.Join(dir, confName))
	if err != nil {
		return fmt.Errorf("using SoftHSM: %w", err)
	}
	if !isFile(conf) {
		return fmt.Errorf("using SoftHSM: %w: %s (hint: `daypassd dev` makes one)", fs.ErrNotExist, conf)
	}
	if err := os.Setenv(confVariable, conf); err != nil {
		return fmt.Errorf("using SoftHSM: %w", err)
	}
	return nil
}

// complete checks the configuration and fills in where the module is.
func (c *SoftHSMConfig) complete() error {
	if c.Dir == "" || c.TokenLabel == "" {
		return errors.New("a folder and a token label are required")
	}
	if len(c.TokenLabel) > 32 || strings.TrimSpace(c.TokenLabel) != c.TokenLabel {
		return fmt.Errorf("token label %q must have at most 32 bytes and no spaces around it", c.TokenLabel)
	}
	if len(c.PIN.Reveal()) < 4 || len(c.SOPIN.Reveal()) < 4 {
		return errors.New("a PIN and a security officer's PIN of at least 4 bytes are required")
	}
	if c.Module == "" {
		found, ok := FindSoftHSM()
		if !ok {
			return fmt.Errorf("%w: SoftHSM was not found (hint: install the package softhsm2, on Fedora and Alpine softhsm, or set %s)", ErrNoModule, moduleVariable)
		}
		c.Module = found
	}
	return nil
}

// writeConf makes the folder and its softhsm2.conf, and tells the latter's path.
func writeConf(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(dir, "\n\r=#") {
		return "", fmt.Errorf("softhsm2.conf can't name the folder %q", dir)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", err
	}
	conf := filepath.Join(dir, confName)
	text := "# Made by daypassd. Everything here is protected by the PIN, and by the mode of this folder.\n" +
		"directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if old, err := os.ReadFile(conf); err == nil && string(old) == text { //nolint:gosec // the folder is the operator's
		return conf, nil // another process may be reading it
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	return conf, nil
}

// initToken makes the token, or finishes one whose making was cut off.
func (m *module) initToken(ctx context.Context, config SoftHSMConfig) error {
	unlock, err := m.lockMaking(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.gate.enter(ctx); err != nil {
		return err
	}
	defer m.gate.leave()
	tokens, err := m.tokens(m.ctx)
	if err != nil {
		return err
	}
	var blank *token
	for _, t := range tokens {
		switch {
		case !t.initialized():
			blank = &t
		case t.info.Label == config.TokenLabel && t.info.Flags&p11.CKF_USER_PIN_INITIALIZED != 0:
			return nil
		case t.info.Label == config.TokenLabel:
			return m.initPIN(t.slot, config)
		}
	}
	if blank == nil {
		return errors.New("SoftHSM offers no slot for a new token")
	}
	if err := m.ctx.InitToken(blank.slot, config.SOPIN.Reveal(), config.TokenLabel); err != nil {
		return fmt.Errorf("initializing token: %w", err)
	}
	return m.initPIN(blank.slot, config)
}

// initPIN sets the user's PIN, as the security officer.
func (m *module) initPIN(slot uint, config SoftHSMConfig) error {
	s, err := m.ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("opening session: %w", err)
	}
	defer func() { _ = m.ctx.CloseSession(s) }() // and with it ends the login
	if err := m.ctx.Login(s, p11.CKU_SO, config.SOPIN.Reveal()); err != nil {
		return fmt.Errorf("logging in as security officer: %w", err)
	}
	if err := m.ctx.InitPIN(s, config.PIN.Reveal()); err != nil {
		return fmt.Errorf("setting PIN: %w", err)
	}
	return nil
}
