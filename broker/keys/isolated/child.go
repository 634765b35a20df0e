package isolated

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/keys/pkcs11"
)

// The child's ends of the pipes. Its standard output is the module's: some print
// there, and must not spoil a message.
const (
	requestsFD = 3
	answersFD  = 4
)

// leftBehind is how long what the module has started may hold the pipes of a child
// that has ended.
const leftBehind = time.Second

var (
	errEnded   = errors.New("it ended")
	errHangs   = errors.New("it did not answer in time, and was killed")
	errStopped = errors.New("it was stopped")
)

// child is one process that holds the module, from its start to its end.
type child struct {
	cmd      *exec.Cmd
	output   *output
	requests *os.File
	answers  *os.File
	hang     time.Duration
	now      func() time.Time
	refused  func(error) // told of the refusal of a PIN, before anybody else is

	queue chan []byte   // frames to be written; as long as slots, so that nobody waits to put one in
	slots chan struct{} // a call under way holds one, until it is answered
	died  chan struct{} // closed when it is of no use any more; err is set before
	heard chan struct{} // closed when all that it has said was read
	ended chan struct{} // closed when the process has ended; state is set before
	state *os.ProcessState

	mu       sync.Mutex
	calls    map[uint64]*call
	number   uint64
	stopping bool  // nothing more is put into the queue
	err      error // why it died
	diedAt   time.Time
}

// call is a question that was not answered yet.
type call struct {
	request *request
	answer  chan *answer // holds one
	timer   *time.Timer
}

// spawn starts the process.
func spawn(config *Config, refused func(error)) (*child, error) {
	theirRequests, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, theirAnswers, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirRequests.Close(), requests.Close())
	}
	c := &child{
		cmd: config.Command(), requests: requests, answers: answers, hang: config.HangAfter, now: config.Now, refused: refused,
		output: &output{logger: config.Logger, secret: config.Hello.PIN.Reveal(), now: config.Now},
		queue:  make(chan []byte, maxInFlight), slots: make(chan struct{}, maxInFlight),
		died: make(chan struct{}), heard: make(chan struct{}), ended: make(chan struct{}), calls: map[uint64]*call{},
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = nil, c.output, c.output
	c.cmd.ExtraFiles = []*os.File{theirRequests, theirAnswers}
	c.cmd.WaitDelay = leftBehind // for what the module has started, and left behind
	if c.cmd.SysProcAttr == nil {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A process group of its own: Ctrl-C in a terminal is for the broker, which needs
	// its keys until it has drained.
	c.cmd.SysProcAttr.Setpgid = true
	endWithParent(c.cmd.SysProcAttr)
	err = c.start()
	if closing := errors.Join(theirRequests.Close(), theirAnswers.Close()); err == nil {
		err = closing
	}
	if err != nil {
		return nil, errors.Join(err, requests.Close(), answers.Close())
	}
	go c.write()
	go c.read()
	return c, nil
}

// start starts the process from a goroutine that keeps its thread until the
// process has ended: the signal that ends it with its parent comes when that
// thread does, and Go would otherwise be free to end it.
func (c *child) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = c.cmd.Wait() // the state says how it ended
		c.output.end()
		c.state = c.cmd.ProcessState
		close(c.ended)
		// Its last words count: that a PIN is refused is said, and then it ends.
		select {
		case <-c.heard:
		case <-time.After(leftBehind): // something that it has started holds the pipe
		}
		c.fail(errEnded)
	}()
	return <-started
}

// fail gives the child up: all calls under way fail at once, and the process is
// killed if it is still there.
func (c *child) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err, c.diedAt = err, c.now()
	for _, call := range c.calls {
		call.timer.Stop()
	}
	c.calls = nil
	close(c.died)
	_ = c.cmd.Process.Kill() // an error means that it has ended
	_ = c.requests.Close()
	_ = c.answers.Close()
}

// isDead says whether it is of no use any more.
func (c *child) isDead() bool {
	select {
	case <-c.died:
		return true
	default:
		return false
	}
}

// reason is what calls are told after it died.
func (c *child) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return away(c.err)
}

func away(err error) error {
	return fmt.Errorf("%w: %w (hint: the log says more; the next call starts it again)", ErrUnavailable, err)
}

// stop lets the process end by itself, as the end of its pipe tells it, and kills
// it when it doesn't within grace. One that the kernel can't end is not waited for.
func (c *child) stop(grace time.Duration) error {
	if c.isDead() {
		c.endsWithin(leftBehind)
		return nil
	}
	c.mu.Lock()
	if !c.stopping {
		c.stopping = true
		close(c.queue)
	}
	c.mu.Unlock()
	if c.endsWithin(grace) {
		return nil
	}
	c.fail(errStopped)
	c.endsWithin(leftBehind)
	return fmt.Errorf("stopping the PKCS#11 module's process: it did not end within %s, and was killed", grace)
}

func (c *child) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.ended:
		return true
	case <-timer.C:
		return false
	}
}

// write writes what is queued, as many frames at once as there are, and closes the
// pipe once no more will come.
func (c *child) write() {
	var batch []byte
	for {
		batch = batch[:0]
		select {
		case <-c.died:
			return
		case frame, more := <-c.queue:
			if !more {
				_ = c.requests.Close() // so the child ends by itself
				return
			}
			batch = append(batch, frame...)
			clear(frame)
		}
		for n := len(c.queue); n > 0 && len(batch) < maxFrame; n-- { // nobody else takes any
			frame := <-c.queue
			batch = append(batch, frame...)
			clear(frame)
		}
		_, err := c.requests.Write(batch)
		clear(batch) // the PIN, and what is to be sealed
		if err != nil {
			return // it has ended, which read notices once it has heard all
		}
	}
}

// read hands answers to those who wait for them. Whatever isn't the answer to a
// call is the end of the child: nothing it says can be trusted then.
func (c *child) read() {
	defer close(c.heard)
	frames := newFrameReader(c.answers)
	for {
		frame, err := frames.next()
		var a *answer
		if err == nil {
			a, err = decodeAnswer(frame)
		}
		if err == nil {
			err = c.deliver(a)
		}
		switch {
		case err == nil:
		case errors.Is(err, errFrame), errors.Is(err, errAnswer):
			c.fail(err)
			return
		default: // io.EOF, or our own end was closed
			c.fail(errEnded)
			return
		}
	}
}

// errAnswer says that an answer was none to what was asked.
var errAnswer = errors.New("it answered what was not asked, and was killed")

// deliver hands an answer to the call that it is for.
func (c *child) deliver(a *answer) error {
	asked, err := c.match(a)
	if err != nil {
		return err
	}
	if err := a.err(); errors.Is(err, pkcs11.ErrPIN) {
		c.refused(err) // also where nobody waits for the answer any more
	}
	asked.answer <- a
	<-c.slots
	return nil
}

// match checks that an answer is the one to its call: of that number, for what was
// asked, and with the key that was asked for.
func (c *child) match(a *answer) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.calls[a.number]
	switch {
	case asked == nil:
		return nil, fmt.Errorf("%w: there is no call %d", errAnswer, a.number)
	case a.verb != asked.request.verb:
		return nil, fmt.Errorf("%w: call %d was of another kind", errAnswer, a.number)
	case a.label != asked.request.key.label || asked.request.key.id != "" && a.keyID != asked.request.key.id:
		return nil, fmt.Errorf("%w: call %d was for key %s, its answer for key %s", errAnswer, a.number, asked.request.key.id, a.keyID)
	}
	delete(c.calls, a.number)
	asked.timer.Stop()
	return asked, nil
}

// do sends a question and waits for its answer. A caller that waits no longer
// leaves the call behind: it holds its slot until the child answers it, or is
// killed because it doesn't.
func (c *child) do(ctx context.Context, r *request) (*answer, error) {
	patience := c.hang
	if r.verb.makes() {
		patience *= slower
	}
	if err := c.acquire(ctx, patience); err != nil {
		return nil, err
	}
	asked, err := c.send(ctx, r, patience)
	if err != nil {
		<-c.slots
		return nil, err
	}
	select {
	case a := <-asked.answer:
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the PKCS#11 module's process: %w", context.Cause(ctx))
	case <-c.died:
		select {
		case a := <-asked.answer: // its last word
			return a, nil
		default:
			return nil, c.reason()
		}
	}
}

// acquire waits for a slot.
func (c *child) acquire(ctx context.Context, patience time.Duration) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-c.died:
		return c.reason()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the PKCS#11 module's process: %w", context.Cause(ctx))
	case <-timer.C:
		return fmt.Errorf("%w: %d calls are under way", ErrUnavailable, maxInFlight)
	}
}

// send numbers the question and puts it into the queue.
func (c *child) send(ctx context.Context, r *request, patience time.Duration) (*call, error) {
	if end, bounded := ctx.Deadline(); bounded {
		// Contexts run by the real clock, whatever Config.Now says.
		if r.timeout = time.Until(end); r.timeout <= 0 {
			return nil, context.DeadlineExceeded
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, away(c.err)
	}
	if c.stopping {
		return nil, ErrClosed
	}
	c.number++
	r.number = c.number
	frame, err := r.encode()
	if err != nil {
		return nil, err
	}
	asked := &call{request: r, answer: make(chan *answer, 1)}
	asked.timer = time.AfterFunc(patience, func() { c.fail(errHangs) })
	c.calls[r.number] = asked
	c.queue <- frame
	return asked, nil
}
