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
)

// The child's ends of the pipes. Its standard output is the module's: some print
// there, and must not spoil a message.
const (
	requestsFD = 3
	answersFD  = 4
)

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

	queue chan []byte   // frames to be written; as long as slots, so that nobody waits to put one in
	slots chan struct{} // a call under way holds one, until it is answered
	died  chan struct{} // closed when it is of no use any more; err is set before
	ended chan struct{} // closed when the process has ended; state is set before
	state *os.ProcessState

	mu     sync.Mutex
	calls  map[uint64]*call
	number uint64
	err    error // why it died
	diedAt time.Time
}

// call is a question that was not answered yet.
type call struct {
	request *request
	answer  chan *answer // holds one
	timer   *time.Timer
}

// spawn starts the process.
func spawn(config *Config) (*child, error) {
	theirRequests, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, theirAnswers, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirRequests.Close(), requests.Close())
	}
	c := &child{
		cmd: config.Command(), requests: requests, answers: answers, hang: config.HangAfter, now: config.Now,
		output: &output{logger: config.Logger, secret: config.Hello.PIN.Reveal(), now: config.Now},
		queue:  make(chan []byte, maxInFlight), slots: make(chan struct{}, maxInFlight),
		died: make(chan struct{}), ended: make(chan struct{}), calls: map[uint64]*call{},
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = nil, c.output, c.output
	c.cmd.ExtraFiles = []*os.File{theirRequests, theirAnswers}
	c.cmd.WaitDelay = time.Second // for what the module has started, and left behind
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
// it when it doesn't within grace.
func (c *child) stop(grace time.Duration) error {
	if c.isDead() {
		<-c.ended
		return nil
	}
	_ = c.requests.Close()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.ended:
		return nil
	case <-timer.C:
		c.fail(errStopped)
		<-c.ended
		return fmt.Errorf("stopping the PKCS#11 module's process: it did not end within %s, and was killed", grace)
	}
}

// write writes what is queued, as many frames at once as there are.
func (c *child) write() {
	var batch []byte
	for {
		select {
		case <-c.died:
			return
		case frame := <-c.queue:
			batch = append(batch[:0], frame...)
			clear(frame)
		}
		for more := true; more && len(batch) < maxFrame; {
			select {
			case frame := <-c.queue:
				batch = append(batch, frame...)
				clear(frame)
			default:
				more = false
			}
		}
		_, err := c.requests.Write(batch)
		clear(batch) // the PIN, and what is to be sealed
		if err != nil {
			c.fail(errEnded)
			return
		}
	}
}

// read hands answers to those who wait for them. Whatever isn't the answer to a
// call is the end of the child: nothing it says can be trusted then.
func (c *child) read() {
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

// deliver checks that an answer is the one to its call: of that number, for what
// was asked, and with the key that was asked for.
func (c *child) deliver(a *answer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.calls[a.number]
	switch {
	case asked == nil:
		return fmt.Errorf("%w: there is no call %d", errAnswer, a.number)
	case a.verb != asked.request.verb:
		return fmt.Errorf("%w: call %d was of another kind", errAnswer, a.number)
	case a.label != asked.request.key.label || asked.request.key.id != "" && a.keyID != asked.request.key.id:
		return fmt.Errorf("%w: call %d was for key %s, its answer for key %s", errAnswer, a.number, asked.request.key.id, a.keyID)
	}
	delete(c.calls, a.number)
	asked.timer.Stop()
	asked.answer <- a
	<-c.slots
	return nil
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
		return nil, c.reason()
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
