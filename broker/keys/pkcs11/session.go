package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// session is one session with the token, in one pair of hands at a time.
type session struct {
	handle     p11.SessionHandle
	generation uint64                          // of the module
	objects    map[objectName]p11.ObjectHandle // looked up and proved once, valid as long as the session
}

// bounded gives a context that has no deadline one.
func bounded(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, wait, errOwnDeadline)
}

// errOwnDeadline is the cause of a deadline that nobody asked for.
var errOwnDeadline = errors.New("it took too long")

// use runs an operation with a session of its own, and comes back with what it
// answers, or when ctx ends. What an operation works on must be its own: it may
// still be at work then.
func use[T any](ctx context.Context, t *Token, operation func(*session) (T, error)) (T, error) {
	return useWith(ctx, t, 0, operation)
}

// write is use with a session that may write.
func write[T any](ctx context.Context, t *Token, operation func(*session) (T, error)) (T, error) {
	return useWith(ctx, t, p11.CKF_RW_SESSION, operation)
}

func useWith[T any](ctx context.Context, t *Token, flags uint, operation func(*session) (T, error)) (T, error) {
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	var inside atomic.Bool
	// It waits for the session itself, which saves a switch between goroutines when
	// there are more callers than sessions.
	go func() {
		var a answer
		s, err := t.take(ctx)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		inside.Store(true)
		w := worker{token: t, session: s, flags: flags}
		err = w.run(ctx, func(s *session) (err error) {
			a.value, err = operation(s)
			return err
		})
		t.put(w.session)
		if err != nil {
			a = answer{err: err}
		}
		answered <- a
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, t.late(ctx, inside.Load())
	}
}

// late is the error of an operation whose time is up, before or after it got a
// session.
func (t *Token) late(ctx context.Context, inside bool) error {
	cause := context.Cause(ctx)
	what, wait := "waiting for a session with token "+t.config.name(), ErrBusy
	if inside {
		what, wait = "using token "+t.config.name(), ErrNoAnswer
	}
	if errors.Is(cause, errOwnDeadline) {
		return fmt.Errorf("%s: %w", what, wait)
	}
	return fmt.Errorf("%s: %w: %w", what, wait, cause)
}

// worker runs one operation.
type worker struct {
	token   *Token
	session *session // nil: it has the right to open one
	flags   uint
	looked  bool // it has looked for the token again
}

// run tries an operation, and again after what can be mended: a session that died
// behind our back, a token that is in another slot, a module that has to be
// started anew. After any error of the module the session is thrown away,
// because an operation may be half done on it.
func (w *worker) run(ctx context.Context, operation func(*session) error) error {
	t := w.token
	if err := t.module.gate.enter(ctx); err != nil {
		return err
	}
	defer t.module.gate.leave()
	if w.flags != 0 {
		// It takes the place of one that reads, so that there are never more.
		w.drop()
		defer w.drop()
	}
	for try := 0; ; try++ {
		seen := t.module.generation.Load()
		opening, err := true, w.open(ctx)
		if err == nil {
			opening, err = false, operation(w.session)
		}
		if err == nil || !ofToken(err) {
			return err
		}
		w.drop()
		if ctx.Err() != nil || !w.mend(fault{err: err, opening: opening, try: try, seen: seen}) {
			return explain(err)
		}
		select {
		case <-t.closing:
			return ErrClosed
		default:
		}
	}
}

// open makes sure that there is a session of this generation.
func (w *worker) open(ctx context.Context) error {
	if w.session != nil && w.session.generation == w.token.module.generation.Load() {
		return nil
	}
	w.drop()
	s, err := w.token.openSession(w.flags)
	if w.flags == 0 && isCode(err, p11.CKR_SESSION_COUNT, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY) {
		s, err = w.borrow(ctx, err)
	}
	w.session = s
	return err
}

// borrow waits for one of the sessions that are open, where the token gives no
// more of them: it works with fewer.
func (w *worker) borrow(ctx context.Context, none error) (*session, error) {
	t := w.token
	if t.live.Load() == 0 {
		return nil, none
	}
	t.module.gate.leave()
	defer func() { _ = t.module.gate.enter(context.WithoutCancel(ctx)) }() // run leaves it
	select {
	case s := <-t.free:
		t.rights <- struct{}{}
		return s, nil
	case <-t.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, none
	}
}

func (w *worker) drop() {
	w.token.discard(w.session)
	w.session = nil
}

// fault is what went wrong, and when.
type fault struct {
	err     error
	opening bool // before the operation began
	try     int
	seen    uint64 // the generation of the module before
}

// mend says whether to try again, after it did what may help.
func (w *worker) mend(f fault) bool {
	t := w.token
	switch {
	case isCode(f.err, p11.CKR_CRYPTOKI_NOT_INITIALIZED):
		return f.try < 2 && w.startAnew(f.seen)
	case errors.Is(f.err, ErrPIN):
		return false
	case isStale(f.err) && f.try == 0:
		return true
	case isStale(f.err), isGone(f.err), errors.Is(f.err, ErrNoToken),
		f.opening && !isCode(f.err, p11.CKR_SESSION_COUNT, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY):
		// What fails while a session is opened has nothing to do with what is asked
		// of it, so whatever the code is, the token is out of order.
		t.forget()
		if !w.looked && !errors.Is(f.err, ErrNoToken) {
			w.looked = true // for the token, by the try that follows
			return true
		}
		return f.try < 3 && w.startAnew(f.seen)
	default:
		return false
	}
}

// startAnew starts the module anew. While a Token is opened it doesn't: a
// mistyped label must not cost the others their sessions.
func (w *worker) startAnew(seen uint64) bool {
	t := w.token
	if !t.opened.Load() {
		return false
	}
	t.module.gate.leave()
	again := t.module.reinitialize(seen)
	_ = t.module.gate.enter(context.Background()) // run leaves it
	t.forget()
	return again
}

// ofToken tells an error of the module or the token from one of the operation.
func ofToken(err error) bool {
	_, code := errors.AsType[p11.Error](err)
	return code || errors.Is(err, ErrNoToken) || errors.Is(err, errWrongKey)
}

// isStale tells a session or handle that is of no use from an operation that
// failed.
func isStale(err error) bool {
	return isCode(err, p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN,
		p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED)
}

// isGone tells a token that is out of order, or away.
func isGone(err error) bool {
	return isCode(err, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_SLOT_ID_INVALID)
}

// explain says what an answer of the module means, where its name doesn't.
func explain(err error) error {
	switch {
	case isCode(err, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY):
		return fmt.Errorf("%w: %w (hint: destroy keys that are no longer needed, or close other programs' sessions)", ErrFull, err)
	case isCode(err, p11.CKR_SESSION_COUNT):
		return fmt.Errorf("%w: %w (hint: other programs, or other brokers, hold them; the token's settings say how many there may be)", ErrSessions, err)
	case isCode(err, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_SLOT_ID_INVALID):
		return fmt.Errorf("%w: %w (hint: it is looked for again at the next use)", ErrNoToken, err)
	}
	return err
}

// take waits for a session; nil is the right to open one.
func (t *Token) take(ctx context.Context) (*session, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("using token %s: %w", t.config.name(), context.Cause(ctx))
	}
	select {
	case s := <-t.free:
		return s, nil
	default:
	}
	select {
	case s := <-t.free:
		return s, nil
	case <-t.rights:
		return nil, nil //nolint:nilnil // see above
	case <-t.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, t.late(ctx, false)
	}
}

// put gives a session back, or the right to open one.
func (t *Token) put(s *session) {
	if s == nil {
		t.rights <- struct{}{}
		return
	}
	t.free <- s
}

func (t *Token) openSession(flags uint) (*session, error) {
	select {
	case <-t.closing:
		return nil, ErrClosed
	default:
	}
	slot, err := t.slot()
	if err != nil {
		return nil, err
	}
	generation := t.module.generation.Load()
	handle, err := t.calls.OpenSession(slot, p11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return nil, fmt.Errorf("opening a session with token %s: %w", t.config.name(), err)
	}
	s := &session{handle: handle, generation: generation, objects: map[objectName]p11.ObjectHandle{}}
	t.live.Add(1)
	if err := t.logIn(s); err != nil {
		t.discard(s)
		return nil, err
	}
	return s, nil
}

func (t *Token) logIn(s *session) error {
	t.login.Lock()
	defer t.login.Unlock()
	if t.refused != nil {
		return t.refused
	}
	err := t.calls.Login(s.handle, p11.CKU_USER, t.config.PIN.Reveal())
	switch {
	case err == nil, isCode(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case isCode(err, p11.CKR_PIN_LOCKED):
		t.refused = fmt.Errorf("logging in to token %s: %w: %w (hint: the token locked itself after wrong PINs; its security officer sets a new one, with `pkcs11-tool --login --login-type so --init-pin`; then restart the broker)",
			t.config.name(), ErrPIN, err)
		return t.refused
	case isCode(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED):
		t.refused = fmt.Errorf("logging in to token %s: %w: %w (hint: it is not tried again until a restart, lest the token lock itself)",
			t.config.name(), ErrPIN, err)
		return t.refused
	case isCode(err, p11.CKR_USER_PIN_NOT_INITIALIZED):
		// Nothing was compared, so it may be tried again. SoftHSM says so as well while
		// another process rewrites the token's file.
		return fmt.Errorf("logging in to token %s: %w (hint: its security officer sets a PIN, with `pkcs11-tool --login --login-type so --init-pin`)", t.config.name(), err)
	default:
		return fmt.Errorf("logging in to token %s: %w", t.config.name(), err)
	}
}

// discard closes a session that may be dead already. The caller is inside the
// module: the handle of another generation could be somebody else's by now.
func (t *Token) discard(s *session) {
	if s == nil {
		return
	}
	t.live.Add(-1)
	if s.generation == t.module.generation.Load() {
		_ = t.calls.CloseSession(s.handle)
	}
}
