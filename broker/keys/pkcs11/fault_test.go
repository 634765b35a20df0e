package pkcs11

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// faulty is the real module with faults that SoftHSM doesn't have. A nil function
// lets the call through; so does one that answers nil.
type faulty struct {
	native
	open, login, signInit, sign, find func() error
	info                              func(slot uint, info p11.TokenInfo) (p11.TokenInfo, error)
	slots                             func(slots []uint) []uint
	pair                              func() error
	signed                            func(signature []byte) []byte
	handle                            func(h p11.ObjectHandle) p11.ObjectHandle
	logins                            atomic.Int32
}

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func (f *faulty) OpenSession(slot, flags uint) (p11.SessionHandle, error) {
	if err := call(f.open); err != nil {
		return 0, err
	}
	return f.native.OpenSession(slot, flags)
}

func (f *faulty) Login(s p11.SessionHandle, user uint, pin string) error {
	f.logins.Add(1)
	if err := call(f.login); err != nil {
		return err
	}
	return f.native.Login(s, user, pin)
}

func (f *faulty) FindObjectsInit(s p11.SessionHandle, template []*p11.Attribute) error {
	if err := call(f.find); err != nil {
		return err
	}
	return f.native.FindObjectsInit(s, template)
}

func (f *faulty) GetSlotList(present bool) ([]uint, error) {
	slots, err := f.native.GetSlotList(present)
	if f.slots != nil {
		slots = f.slots(slots)
	}
	return slots, err
}

func (f *faulty) GetTokenInfo(slot uint) (p11.TokenInfo, error) {
	info, err := f.native.GetTokenInfo(slot)
	if f.info != nil {
		return f.info(slot, info)
	}
	return info, err
}

func (f *faulty) GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error) {
	if err := call(f.pair); err != nil {
		return 0, 0, err
	}
	return f.native.GenerateKeyPair(s, m, public, private)
}

func (f *faulty) SignInit(s p11.SessionHandle, m []*p11.Mechanism, h p11.ObjectHandle) error {
	if err := call(f.signInit); err != nil {
		return err
	}
	if f.handle != nil {
		h = f.handle(h)
	}
	return f.native.SignInit(s, m, h)
}

func (f *faulty) Sign(s p11.SessionHandle, data []byte) ([]byte, error) {
	if err := call(f.sign); err != nil {
		return nil, err
	}
	signature, err := f.native.Sign(s, data)
	if f.signed != nil && err == nil {
		signature = f.signed(signature)
	}
	return signature, err
}

// openFaulty opens the test token with a module that can fail.
func openFaulty(t *testing.T, change func(*Config)) (*Token, *faulty) {
	t.Helper()
	f := &faulty{}
	config := testConfig()
	config.faults = func(under native) native {
		f.native = under
		return f
	}
	if change != nil {
		change(&config)
	}
	return openTest(t, config), f
}

// once fails with a code once.
func once(code uint) func() error {
	var failed atomic.Bool
	return func() error {
		if failed.CompareAndSwap(false, true) {
			return p11.Error(code)
		}
		return nil
	}
}

func TestFaultsAreSurvived(t *testing.T) {
	token, f := openFaulty(t, nil)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	for name, code := range map[string]uint{
		"session handle": p11.CKR_SESSION_HANDLE_INVALID, "session closed": p11.CKR_SESSION_CLOSED, "logged out": p11.CKR_USER_NOT_LOGGED_IN,
		"key handle": p11.CKR_KEY_HANDLE_INVALID, "object handle": p11.CKR_OBJECT_HANDLE_INVALID, "device error": p11.CKR_DEVICE_ERROR,
		"removed": p11.CKR_DEVICE_REMOVED, "not present": p11.CKR_TOKEN_NOT_PRESENT,
	} {
		f.sign = once(code)
		if err := keys.SelfTest(s); err != nil {
			t.Errorf("%s while signing: %v", name, err)
		}
		f.sign, f.signInit = nil, once(code)
		if err := keys.SelfTest(s); err != nil {
			t.Errorf("%s before signing: %v", name, err)
		}
		f.sign, f.signInit = once(code), nil
		f.open = once(code)
		if err := keys.SelfTest(s); err != nil && code != p11.CKR_TOKEN_NOT_PRESENT {
			t.Logf("%s twice: %v", name, err)
		}
		f.sign, f.open = nil, nil
		if err := keys.SelfTest(s); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
	// What stays is an error, a typed one, and no longer than it stays.
	f.open, f.sign = func() error { return p11.Error(p11.CKR_TOKEN_NOT_PRESENT) }, once(p11.CKR_DEVICE_REMOVED)
	if err := keys.SelfTest(s); !errors.Is(err, ErrNoToken) {
		t.Errorf("a token that is away: %v", err)
	}
	f.open = nil
	if err := keys.SelfTest(s); err != nil {
		t.Errorf("a token that is back: %v", err)
	}
	// The operation's own fault isn't the token's.
	calls := 0
	f.signInit = func() error { calls++; return p11.Error(p11.CKR_MECHANISM_INVALID) }
	if err := keys.SelfTest(s); !isCode(err, p11.CKR_MECHANISM_INVALID) || calls != 1 {
		t.Errorf("tried %d times: %v", calls, err)
	}
}

// The module is finalized behind our back, or started anew by us: nothing of before is
// left.
func TestRestartOfTheModuleIsSurvived(t *testing.T) {
	token, _ := openFaulty(t, nil)
	other := openTest(t, testConfig())
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := getSealer(t.Context(), other, "seal")
	if err != nil {
		t.Fatal(err)
	}
	for _, ours := range []bool{false, true} {
		awaitRest(token.module)
		if ours {
			if !token.module.reinitialize(token.module.generation.Load()) {
				t.Error("the module wasn't started anew")
			}
		} else {
			rawPooled(t, token, func(ctx *p11.Ctx, _ *session) {
				if err := ctx.Finalize(); err != nil {
					t.Error(err)
				}
			})
		}
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() { checkUse(t, s, sealer, byte(i)) })
		}
		group.Wait()
	}
}

// awaitRest waits until the module may be started anew.
func awaitRest(m *module) {
	for m.rests() {
		runtime.Gosched()
	}
}

// The token's folder is moved away, as a token is pulled out, and put back.
func TestTokenIsTakenOutAndPutBack(t *testing.T) {
	config := testConfig()
	config.TokenLabel = unique("moved")
	if err := InitSoftHSM(t.Context(), softHSM(config.TokenLabel)); err != nil {
		t.Fatal(err)
	}
	token := openTest(t, config)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	folder := folderOf(t, token)
	away := filepath.Join(testDir, filepath.Base(folder)+".away")
	// A bystander of the same module is none the worse.
	bystander, err := getSigner(t.Context(), openTest(t, testConfig()), "sign")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		awaitRest(token.module)
		if err := os.Rename(folder, away); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := keys.SelfTest(s); !errors.Is(err, ErrNoToken) {
				t.Errorf("away: %v", err)
			}
			if err := keys.SelfTest(bystander); err != nil {
				t.Errorf("another token: %v", err)
			}
		}
		if _, err := token.OpenSigner(t.Context(), keys.Pair{Label: "sign"}); err == nil {
			t.Error("a key of a token that is away opened")
		}
		if err := os.Rename(away, folder); err != nil {
			t.Fatal(err)
		}
		awaitRest(token.module)
		if err := keys.SelfTest(s); err != nil {
			t.Errorf("back: %v", err)
		}
		if _, err := token.OpenSigner(t.Context(), keys.Pair{Label: "sign"}); err != nil {
			t.Errorf("back: %v", err)
		}
	}
}

// folderOf finds the folder of a SoftHSM token by its serial number.
func folderOf(t *testing.T, token *Token) string {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(testDir, "tokens", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if strings.HasSuffix(strings.ReplaceAll(folder, "-", ""), token.serial()) {
			return folder
		}
	}
	t.Fatalf("no folder of token %s among %q", token.serial(), folders)
	return ""
}

func TestSlotNumberChanges(t *testing.T) {
	// A slot that isn't there any more under its number: it is looked for again.
	moved := atomic.Bool{}
	token, f := openFaulty(t, nil)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	slot := slotOf(token)
	token.place.Lock()
	token.place.slot = slot + 1 // where it was before
	token.place.Unlock()
	rawPooled(t, token, func(ctx *p11.Ctx, s *session) {
		if err := ctx.CloseSession(s.handle); err != nil {
			t.Error(err)
		}
	})
	f.info = func(_ uint, info p11.TokenInfo) (p11.TokenInfo, error) {
		moved.Store(true)
		return info, nil
	}
	if err := keys.SelfTest(s); err != nil || !moved.Load() || slotOf(token) != slot {
		t.Errorf("looked again: %v, slot %d, want %d: %v", moved.Load(), slotOf(token), slot, err)
	}
}

func TestHangingCallsAreBounded(t *testing.T) {
	token, f := openFaulty(t, nil)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var stuck atomic.Int32
	f.sign = func() error {
		stuck.Add(1)
		<-release
		return nil
	}
	digest, opts := keys.Digest(keys.ES256, nil)
	for range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		_, err := s.SignContext(ctx, digest, opts)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrBusy) || time.Since(start) > 3*time.Second {
			t.Fatalf("after %s: %v", time.Since(start), err)
		}
	}
	if n := stuck.Load(); n != defaultSessions {
		t.Errorf("%d calls hang, want %d, as many as there are sessions", n, defaultSessions)
	}
	close(release)
	if err := keys.SelfTest(s); err != nil {
		t.Errorf("once the calls came back: %v", err)
	}
}

func TestAHangingModuleIsNotRestartedNorClosed(t *testing.T) {
	token, f := openFaulty(t, nil)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	awaitRest(token.module)
	generation := token.module.generation.Load()
	release, inside := make(chan struct{}), make(chan struct{})
	var first sync.Once
	f.sign = func() error {
		first.Do(func() { close(inside) })
		<-release
		return nil
	}
	var group sync.WaitGroup
	digest, opts := keys.Digest(keys.ES256, nil)
	group.Go(func() {
		if _, err := s.SignContext(t.Context(), digest, opts); err != nil {
			t.Error(err)
		}
	})
	<-inside
	if token.module.reinitialize(generation) || token.module.generation.Load() != generation {
		t.Error("the module was started anew with a call inside")
	}
	close(release)
	group.Wait()
	if !token.module.reinitialize(generation) || token.module.generation.Load() == generation {
		t.Error("the module wasn't started anew once nobody was inside")
	}
	f.sign = nil
	if err := keys.SelfTest(s); err != nil {
		t.Error(err)
	}
}

func TestFewerSessionsThanWished(t *testing.T) {
	for name, code := range map[string]uint{"too many sessions": p11.CKR_SESSION_COUNT, "no memory for one": p11.CKR_DEVICE_MEMORY} {
		var opened atomic.Int32
		token, f := openFaulty(t, func(c *Config) { c.MaxSessions = 8 })
		s, err := getSigner(t.Context(), token, "sign")
		if err != nil {
			t.Fatal(err)
		}
		f.open = func() error { opened.Add(1); return p11.Error(code) }
		var group sync.WaitGroup
		for range 64 {
			group.Go(func() {
				if err := keys.SelfTest(s); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		group.Wait()
		if opened.Load() == 0 {
			t.Errorf("%s: nobody asked for a second session", name)
		}
		// With none at all there is nothing to work with.
		rawPooled(t, token, func(ctx *p11.Ctx, s *session) { _ = ctx.CloseSession(s.handle) })
		want := map[uint]error{p11.CKR_SESSION_COUNT: ErrSessions, p11.CKR_DEVICE_MEMORY: ErrFull}[code]
		if err := keys.SelfTest(s); !errors.Is(err, want) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: without any: %v", name, err)
		}
		f.open = nil
		if err := keys.SelfTest(s); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
}

func TestFullToken(t *testing.T) {
	token, f := openFaulty(t, nil)
	for _, code := range []uint{p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY} {
		f.pair = func() error { return p11.Error(code) }
		if _, err := token.MakeSigner(t.Context(), keys.Pair{Label: unique("full")}); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("full: %v", err)
		}
	}
	f.pair = nil
	if _, err := token.MakeSigner(t.Context(), keys.Pair{Label: unique("room")}); err != nil {
		t.Errorf("room again: %v", err)
	}
}

func TestLockedPINIsSentOnce(t *testing.T) {
	token, f := openFaulty(t, nil)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	f.login = func() error { return p11.Error(p11.CKR_PIN_LOCKED) }
	before := f.logins.Load()
	rawPooled(t, token, func(ctx *p11.Ctx, s *session) { _ = ctx.CloseSession(s.handle) })
	for range 5 {
		if err := keys.SelfTest(s); !errors.Is(err, ErrPIN) || !strings.Contains(err.Error(), "security officer") {
			t.Errorf("locked: %v", err)
		}
	}
	if n := f.logins.Load() - before; n != 1 {
		t.Errorf("the PIN was sent %d times", n)
	}
}
