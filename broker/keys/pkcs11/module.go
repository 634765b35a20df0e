package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// module is a loaded PKCS#11 library.
type module struct {
	path string
	ctx  *p11.Ctx
	gate gate

	// making is held while keys are looked for and made, so that two Tokens of
	// this process don't make the same key twice. A channel, since the wait for it
	// has a deadline.
	making chan struct{}

	// generation counts the C_Initialize: handles of another generation are void, or
	// by now somebody else's.
	generation atomic.Uint64

	// The rest is guarded by loaded.Mutex.
	users   int
	ours    bool   // C_Initialize was ours, so C_Finalize is
	conf    string // SOFTHSM2_CONF when it was initialized
	resting bool   // it was started anew a moment ago
}

// restTime is how long a module that was started anew is left alone: an HSM that
// is out of order must not be hammered.
const restTime = time.Second

// loaded holds the modules of this process by their real path. A library has
// one state per process, whatever we do, so this has to be global.
//
//nolint:gochecknoglobals // C_Initialize is per process, and answers CKR_CRYPTOKI_ALREADY_INITIALIZED the second time
var loaded struct {
	sync.Mutex
	modules map[string]*module
}

// acquireModule loads and initializes a module, or counts one user more. Where
// the library hangs, only who waits for it is freed.
func acquireModule(ctx context.Context, path string) (*module, error) {
	type answer struct {
		module *module
		err    error
	}
	answered := make(chan answer)
	go func() {
		m, err := acquireNow(path)
		select {
		case answered <- answer{m, err}:
		case <-ctx.Done():
			if err == nil {
				_ = m.release() // nobody waits for it any more
			}
		}
	}()
	select {
	case a := <-answered:
		return a.module, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("loading %s: %w", path, context.Cause(ctx))
	}
}

func acquireNow(path string) (*module, error) {
	// Distributions install links; one library must not be taken for two.
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w (hint: for SoftHSM install the package softhsm2)", ErrNoModule, err)
	}
	loaded.Lock()
	defer loaded.Unlock()
	m := loaded.modules[resolved]
	if m == nil {
		m = &module{path: path, ctx: p11.New(resolved), making: make(chan struct{}, 1)}
		if m.ctx == nil {
			return nil, fmt.Errorf("%w: %s is not a PKCS#11 library for this machine", ErrNoModule, path)
		}
		if loaded.modules == nil {
			loaded.modules = map[string]*module{}
		}
		loaded.modules[resolved] = m
	}
	if m.users == 0 {
		if err := m.initialize(); err != nil {
			return nil, err
		}
	}
	m.users++
	return m, nil
}

// initialize calls C_Initialize. The caller holds loaded.Mutex.
func (m *module) initialize() error {
	err := m.ctx.Initialize()
	if err != nil && !isCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return fmt.Errorf("initializing %s: %w (hint: SoftHSM needs a readable file at SOFTHSM2_CONF)", m.path, err)
	}
	m.ours, m.conf = err == nil, os.Getenv(confVariable)
	m.generation.Add(1)
	return nil
}

// reinitialize starts the module anew, unless that happened since the caller saw
// its generation. The caller isn't inside. It says whether trying again may help.
func (m *module) reinitialize(seen uint64) bool {
	done := false
	if m.rests() {
		return m.generation.Load() != seen
	}
	m.gate.alone(func() {
		loaded.Lock()
		defer loaded.Unlock()
		if m.generation.Load() != seen || m.users == 0 {
			return
		}
		m.rest()
		if m.ours {
			// Whatever it answers: what counts is that C_Initialize works.
			_ = m.ctx.Finalize()
		}
		done = m.initialize() == nil
	})
	return done || m.generation.Load() != seen
}

func (m *module) rests() bool {
	loaded.Lock()
	defer loaded.Unlock()
	return m.resting
}

func (m *module) rest() {
	m.resting = true
	time.AfterFunc(restTime, func() {
		loaded.Lock()
		defer loaded.Unlock()
		m.resting = false
	})
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

// lockMaking waits for the right to make keys: among this process, and among the
// processes of this machine. The latter isn't for safety (settle is, which needs no
// lock) but for SoftHSM: a process that has just written doesn't see what another
// wrote at the same moment.
func (m *module) lockMaking(ctx context.Context) (unlock func(), err error) {
	select {
	case m.making <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another key to be made: %w", context.Cause(ctx))
	}
	among := m.lockProcesses(ctx)
	return func() {
		among()
		<-m.making
	}, nil
}

// processesWait bounds the wait for other processes: whoever can read the file can
// lock it.
const processesWait = 5 * time.Second

// lockProcesses locks SoftHSM's configuration, or, where there is none, the
// library: a file that is there, and the same one for all that share the token.
func (m *module) lockProcesses(ctx context.Context) (unlock func()) {
	path := m.initializedWith()
	if path == "" {
		path = m.path
	}
	file, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, processesWait)
	defer cancel()
	tick := time.NewTicker(settleStep)
	defer tick.Stop()
	for syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return func() { _ = file.Close() }
		}
	}
	return func() { _ = file.Close() } // and with it goes the lock
}

// token is a token in its slot.
type token struct {
	slot uint
	info p11.TokenInfo
}

func (t token) initialized() bool { return t.info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 }

// tokens lists what is in the slots.
func (m *module) tokens(calls slotCalls) ([]token, error) {
	slots, err := calls.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("listing slots of %s: %w", m.path, err)
	}
	var all []token
	var gone error
	for _, slot := range slots {
		info, err := calls.GetTokenInfo(slot)
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
