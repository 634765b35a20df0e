package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

// module is a loaded PKCS#11 library.
type module struct {
	path string
	ctx  *p11.Ctx

	// making is held while keys are looked for and made, so that two Tokens of
	// this process don't make the same key twice.
	making sync.Mutex

	// The rest is guarded by loaded.Mutex.
	users int
	ours  bool   // C_Initialize was ours, so C_Finalize is
	conf  string // SOFTHSM2_CONF when it was initialized
}

// loaded holds the modules of this process by their real path. A library has
// one state per process, whatever we do, so this has to be global.
//
//nolint:gochecknoglobals // C_Initialize is per process, and answers CKR_CRYPTOKI_ALREADY_INITIALIZED the second time
var loaded struct {
	sync.Mutex
	modules map[string]*module
}

// acquireModule loads and initializes a module, or counts one user more.
func acquireModule(path string) (*module, error) {
	// Distributions install links; one library must not be taken for two.
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w (hint: for SoftHSM install the package softhsm2)", ErrNoModule, err)
	}
	loaded.Lock()
	defer loaded.Unlock()
	m := loaded.modules[resolved]
	if m == nil {
		m = &module{path: path, ctx: p11.New(resolved)}
		if m.ctx == nil {
			return nil, fmt.Errorf("%w: %s is not a PKCS#11 library for this machine", ErrNoModule, path)
		}
		if loaded.modules == nil {
			loaded.modules = map[string]*module{}
		}
		loaded.modules[resolved] = m
	}
	if m.users == 0 {
		err := m.ctx.Initialize()
		if err != nil && !isCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			return nil, fmt.Errorf("initializing %s: %w (hint: SoftHSM needs a readable file at SOFTHSM2_CONF)", path, err)
		}
		m.ours, m.conf = err == nil, os.Getenv(confVariable)
	}
	m.users++
	return m, nil
}

// release finalizes the module after its last user. It stays mapped: libraries
// that leave handlers behind crash the process once they are unmapped.
func (m *module) release() error {
	loaded.Lock()
	defer loaded.Unlock()
	m.users--
	if m.users > 0 || !m.ours {
		return nil
	}
	if err := m.ctx.Finalize(); err != nil {
		return fmt.Errorf("finalizing %s: %w", m.path, err)
	}
	return nil
}

// initializedWith tells the SOFTHSM2_CONF that the module has read.
func (m *module) initializedWith() string {
	loaded.Lock()
	defer loaded.Unlock()
	return m.conf
}

// token is a token in its slot.
type token struct {
	slot uint
	info p11.TokenInfo
}

func (t token) initialized() bool { return t.info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 }

// tokens lists what is in the slots.
func (m *module) tokens() ([]token, error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("listing slots of %s: %w", m.path, err)
	}
	var all []token
	var gone error
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if err != nil {
			// One broken slot of an HSM must not hide the others.
			gone = errors.Join(gone, fmt.Errorf("reading slot %d of %s: %w", slot, m.path, err))
			continue
		}
		all = append(all, token{slot: slot, info: info})
	}
	if len(all) == 0 && gone != nil {
		return nil, gone
	}
	return all, nil
}
