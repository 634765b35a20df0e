package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/daypass/daypass/broker/redact"
)

const (
	// resumeTimeout is how long to wait for the kernel to stop this program. Where
	// there is nobody who could let it go on, the kernel doesn't, and the command
	// goes on after that long.
	resumeTimeout = 100 * time.Millisecond
	// turnPause is how often a program in the background looks whether it is in
	// the foreground again: a shell doesn't tell one that was running.
	turnPause = 250 * time.Millisecond
)

// console is a pseudo-terminal for the command, in front of the one that this
// program is in: the command sees a terminal, and all it prints goes through the
// masker on its way to the other.
//
// The real one is made to hand keys on as they are, so that it is the command's
// own that echoes, edits lines and turns ^C into a signal. ^Z is another matter:
// the command leads a session of its own, where the kernel has nobody to tell of
// a stopped job and therefore doesn't stop it. So this program stops the command,
// gives the real terminal back, and stops itself as the key would have.
type console struct {
	screen, keyboard int // the real one's descriptors; keyboard is -1 when standard input is no terminal
	sameStderr       bool
	master, slave    *os.File
	before           *unix.Termios // what the keyboard was set to
	stops            bool          // SIGTSTP isn't ignored
	process          *os.Process
	continued        chan os.Signal
	wake, awake      *os.File // closing wake ends relay
	relayed          chan struct{}

	mu   sync.Mutex
	raw  bool // the keyboard hands keys on
	done bool // and will not any more
}

// openConsole makes one; nil where this program's standard output is none.
func (p *program) openConsole() *console {
	screen := terminalFd(p.stdout)
	if screen < 0 {
		return nil
	}
	t := &console{
		screen: screen, keyboard: terminalFd(p.stdin), sameStderr: sameTerminal(screen, terminalFd(p.stderr)),
		stops: len(wanted([]os.Signal{syscall.SIGTSTP})) > 0, continued: make(chan os.Signal, 1),
	}
	if err := t.open(); err != nil {
		p.say("warning: %v: the command gets pipes", err)
		return nil
	}
	return t
}

// terminalFd is the descriptor of a stream that is a terminal, else -1.
func terminalFd(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return -1
	}
	fd := int(f.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return -1
	}
	return fd
}

func sameTerminal(a, b int) bool {
	var x, y unix.Stat_t
	return a >= 0 && b >= 0 && unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Rdev == y.Rdev
}

// open makes the pair, with the size and the settings of the real one.
func (t *console) open() error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening pseudo-terminal: %w", err)
	}
	t.master = os.NewFile(uintptr(master), "pseudo-terminal")
	own := t.screen
	if t.keyboard >= 0 {
		own = t.keyboard
	}
	settings, err := unix.IoctlGetTermios(own, unix.TCGETS)
	if err != nil {
		_ = t.master.Close()
		return fmt.Errorf("reading settings of terminal: %w", err)
	}
	before := *settings
	t.before = &before
	if t.keyboard < 0 {
		settings.Oflag &^= unix.OPOST // the real one still does that, and once is enough
	}
	if t.slave, err = openSlave(master, settings); err == nil {
		t.awake, t.wake, err = os.Pipe()
	}
	if err != nil {
		t.close()
		return fmt.Errorf("opening pseudo-terminal: %w", err)
	}
	t.resize()
	return nil
}

func openSlave(master int, settings *unix.Termios) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := unix.Open("/dev/pts/"+strconv.Itoa(number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(slave), "terminal of the command")
	if err := unix.IoctlSetTermios(slave, unix.TCSETS, settings); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// attach puts the command into the terminal, and gives what passes its output on.
func (t *console) attach(child *exec.Cmd, masker *redact.Masker, dst io.Writer) *pump {
	child.Stdout = t.slave
	if t.sameStderr {
		child.Stderr = t.slave
	}
	if t.keyboard >= 0 {
		child.Stdin = t.slave
	}
	t.enter() // before anything is printed: line ends would be turned into more of them
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	return &pump{t.slave, t.master, masker.Writer(dst), make(chan error, 1)}
}

// begin hands keys on to the command, which has been started.
func (t *console) begin(process *os.Process) {
	t.process = process
	signal.Notify(t.continued, syscall.SIGCONT)
	if t.keyboard >= 0 {
		t.relayed = make(chan struct{})
		go func() {
			defer close(t.relayed)
			t.relay()
		}()
	}
}

// end gives the real terminal back.
func (t *console) end() {
	signal.Stop(t.continued)
	t.mu.Lock()
	t.done = true
	t.mu.Unlock()
	t.leave()
	t.close()
	if t.relayed == nil {
		return
	}
	// What is typed from here on is for whoever comes next.
	select {
	case <-t.relayed:
	case <-time.After(drainTimeout / 10):
	}
}

// close closes all that is open. Relay may still be reading awake; it closes that.
func (t *console) close() {
	for _, f := range []*os.File{t.master, t.slave, t.wake} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// follow passes signals on to the command until it has ended. Note is told of each
// before.
func (t *console) follow(signals <-chan os.Signal, ended <-chan struct{}, note func(os.Signal)) {
	for {
		select {
		case s := <-signals:
			note(s)
			t.pass(s)
		case <-t.continued:
			t.resume()
		case <-ended:
			return
		}
	}
}

func (t *console) pass(s os.Signal) {
	switch {
	case s == syscall.SIGPIPE:
	case s == syscall.SIGWINCH:
		t.resize() // which sends it
	case fromTerminal(s): // from the real one, which knows nothing of the command's session
		t.signalGroup(s.(syscall.Signal))
	default:
		_ = t.process.Signal(s) // fails only when the process has ended
	}
}

// suspend stops the command and then this program, and goes on with both. The
// signal goes to whom the key would have sent it, a script around this program
// among them, and isn't caught here: a program in Go can't be stopped by one that
// it has ever listened to.
func (t *console) suspend() {
	t.signalGroup(syscall.SIGSTOP)
	t.leave()
	_ = unix.Kill(0, unix.SIGTSTP)
	time.Sleep(resumeTimeout)
	t.resume()
}

// resume goes on after a stop, in the foreground or in the background.
func (t *console) resume() {
	t.mu.Lock()
	t.raw = false // a shell has settings of its own in the meantime
	t.mu.Unlock()
	t.enter()
	t.resize()
	t.signalGroup(syscall.SIGCONT)
}

// signalGroup signals what is in the foreground of the command's terminal.
func (t *console) signalGroup(s syscall.Signal) {
	if group := t.group(); group > 1 {
		_ = unix.Kill(-group, s) // fails only when there is nobody left
	}
}

// signalAll signals the command and what is in the foreground of its terminal, each
// once. It says whether it did.
func (t *console) signalAll(s syscall.Signal) bool {
	t.signalGroup(s)
	return t.group() == t.process.Pid // whose leader the command is
}

// handsOn says whether the real terminal is made to hand on what it gets as it is.
func (t *console) handsOn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raw && t.sameStderr
}

// group is the process group in the foreground of the command's terminal; 0 when
// there is none.
func (t *console) group() (group int) {
	t.control(func(fd int) { group, _ = unix.IoctlGetInt(fd, unix.TIOCGPGRP) })
	return group
}

// resize gives the command's terminal the size of the real one.
func (t *console) resize() {
	size, err := unix.IoctlGetWinsize(t.screen, unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	t.control(func(fd int) { _ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// control does something with the master's descriptor, as long as it is open.
func (t *console) control(do func(fd int)) {
	if conn, err := t.master.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { do(int(fd)) })
	}
}

// foreground says whether the keyboard is this program's to use: in the
// background, changing it or reading from it would stop the program.
func (t *console) foreground() bool {
	group, err := unix.IoctlGetInt(t.keyboard, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp() // where it controls nobody, nobody is in the background
}

// enter has the keyboard hand keys on, and says whether it does.
func (t *console) enter() bool {
	if t.keyboard < 0 || !t.foreground() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw || t.done {
		return t.raw
	}
	keys := *t.before // as cfmakeraw(3) does
	keys.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	keys.Oflag &^= unix.OPOST
	keys.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	keys.Cflag = keys.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	keys.Cc[unix.VMIN], keys.Cc[unix.VTIME] = 1, 0
	t.raw = unix.IoctlSetTermios(t.keyboard, unix.TCSETS, &keys) == nil
	return t.raw
}

// leave gives the keyboard back as it was.
func (t *console) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw && t.foreground() {
		_ = unix.IoctlSetTermios(t.keyboard, unix.TCSETS, t.before)
	}
	t.raw = false
}

// relay hands on what is typed, while this program is in the foreground.
func (t *console) relay() {
	defer t.awake.Close() //nolint:errcheck // it was only waited for
	buf := make([]byte, 4<<10)
	fds := []unix.PollFd{
		{Fd: int32(t.awake.Fd()), Events: unix.POLLIN}, //nolint:gosec // a descriptor
		{Fd: int32(t.keyboard), Events: unix.POLLIN},   //nolint:gosec // a descriptor
	}
	for {
		watched, patience := fds, -1
		if !t.enter() {
			watched, patience = fds[:1], int(turnPause.Milliseconds())
		}
		n, err := unix.Poll(watched, patience)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || fds[0].Revents != 0:
			return
		case n == 0 || len(watched) == 1 || !t.foreground():
			continue
		}
		n, err = unix.Read(t.keyboard, buf)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil || n <= 0 || !t.typed(buf[:n]) {
			return
		}
	}
}

// typed hands keys on; false when the command's terminal is gone.
func (t *console) typed(keys []byte) bool {
	for {
		i := t.suspendKey(keys)
		if i < 0 {
			_, err := t.master.Write(keys)
			return err == nil
		}
		if _, err := t.master.Write(keys[:i]); err != nil {
			return false
		}
		t.suspend()
		keys = keys[i+1:]
	}
}

// suspendKey finds the key (^Z) that is to stop the command, where it is for this
// program to act on it: not while the command takes it as any other key, and not
// while a shell in the terminal has jobs of its own.
func (t *console) suspendKey(keys []byte) int {
	var settings *unix.Termios
	t.control(func(fd int) { settings, _ = unix.IoctlGetTermios(fd, unix.TCGETS) })
	if !t.stops || settings == nil || settings.Lflag&unix.ISIG == 0 || settings.Cc[unix.VSUSP] == 0 || t.group() != t.process.Pid {
		return -1
	}
	return bytes.IndexByte(keys, settings.Cc[unix.VSUSP])
}
