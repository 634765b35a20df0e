package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// A program that is killed with SIGKILL, or by a kernel that is out of memory, tidies
// nothing up. So exec starts a second process beside the command, the watchdog, and
// tells it over a pipe what to give back. The kernel closes that pipe when exec ends,
// however it ends: unless exec has said before that all is well, the watchdog gives
// back. It holds revocation tokens alone, which are good for nothing else.
//
// It is a child of exec in a session and an environment of its own, so that what ends
// exec seldom ends it too: a terminal that hangs up, a signal to the job's process
// group, a runner that looks for what it started by a variable. It ends by itself,
// watchdogTime after exec at the latest.

// commandWatchdog is the argument with which this program is the watchdog. It is no
// command for people: nothing lists it.
const commandWatchdog = "watchdog"

const (
	watchdogDone = "done\n" // exec's last word
	watchdogTime = 30 * time.Second
	watchdogTry  = 10 * time.Second // of that, for one answer
	watchdogRest = time.Second      // between rounds
	// watchdogMost is how many revocation tokens it remembers; the latest are kept.
	watchdogMost = 64
	// watchdogLine bounds what it is told at once.
	watchdogLine = 16 << 10
	tellTimeout  = time.Second
)

// watched is what the watchdog is told, one a line: that this is to be given back to
// the broker there, or, with Gone, that it was.
type watched struct {
	URL    string `json:"url"`
	CACert string `json:"cacert,omitempty"`
	Token  string `json:"token"` // a revocation token
	Gone   bool   `json:"gone,omitempty"`
}

// watchdog is the process as exec sees it. The nil one watches nothing.
type watchdog struct {
	to *os.File
	as watched // without a token
}

// startWatchdog starts one, unless it isn't wanted or couldn't do anything. That it
// can't is a warning: the credentials end by themselves all the same.
func (p *program) startWatchdog(session api.Session) *watchdog {
	if p.noWatchdog || p.self == "" || session.RevocationToken == "" {
		return nil
	}
	w, err := p.newWatchdog()
	if err != nil {
		p.say("warning: starting the watchdog: %v; should this program be killed, the credentials live to their end", err)
		return nil
	}
	w.watch(session)
	return w
}

func (p *program) newWatchdog() (*watchdog, error) {
	caCert, err := absolute(p.setting(p.caCert, "DAYPASS_CACERT"))
	if err != nil {
		return nil, err
	}
	// Both ends are closed on exec: were one open in the command, which may outlive
	// this program, the watchdog would never see the pipe's end.
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making pipe: %w", err)
	}
	defer from.Close()                                                 //nolint:errcheck // the watchdog has its own copy
	cmd := exec.CommandContext(context.Background(), p.self)           //nolint:gosec // this program
	cmd.Args = []string{os.Args[0], commandWatchdog}                   // no secret stands there
	cmd.Env, cmd.Dir, cmd.Stdin = watchdogEnv(os.Environ()), "/", from // nil streams are /dev/null
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = to.Close()
		return nil, err
	}
	go cmd.Wait() //nolint:errcheck // nothing waits for it, but it is not to lie around
	return &watchdog{to, watched{URL: p.setting(p.url, "DAYPASS_URL"), CACert: caCert}}, nil
}

// watchdogEnv is what it takes to reach the broker, and nothing else: no token, and
// not the variables by which runners find what belongs to a job.
func watchdogEnv(own []string) []string {
	env := []string{} // nil would stand for all of this program's own
	for _, name := range []string{
		"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "RES_OPTIONS", "LOCALDOMAIN", "GODEBUG",
	} {
		if i := slices.IndexFunc(own, func(entry string) bool { return strings.HasPrefix(entry, name+"=") }); i >= 0 {
			env = append(env, own[i])
		}
	}
	return env
}

func absolute(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	return filepath.Abs(file)
}

// watch has a session given back should this program end without a word.
func (w *watchdog) watch(session api.Session) { w.tell(session, false) }

// forget is for a session that was given back while others are still to be watched.
func (w *watchdog) forget(session api.Session) { w.tell(session, true) }

func (w *watchdog) tell(session api.Session, gone bool) {
	if w == nil || session.RevocationToken == "" {
		return
	}
	word := w.as
	word.Token, word.Gone = session.RevocationToken, gone
	line, err := json.Marshal(word)
	if err == nil {
		w.write(append(line, '\n'))
	}
}

// write fails where the watchdog was killed, about which nothing can be done. It waits
// for nobody for long: one that was stopped takes nothing once the pipe is full.
func (w *watchdog) write(line []byte) {
	_ = w.to.SetWriteDeadline(time.Now().Add(tellTimeout))
	_, _ = w.to.Write(line)
}

// end lets it go: with a last word when all is well, else it does what it is there
// for.
func (w *watchdog) end(well bool) {
	if w == nil {
		return
	}
	if well {
		w.write([]byte(watchdogDone))
	}
	_ = w.to.Close()
}

// beWatchdog is the watchdog itself.
func beWatchdog(ctx context.Context, told io.Reader) {
	closeInherited()
	hardenProcess()
	// Whoever ends a job sends these around. It ends by itself.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if open := listen(told); len(open) > 0 {
		ctx, cancel := context.WithTimeout(ctx, watchdogTime)
		defer cancel()
		giveAllBack(ctx, open)
	}
}

// listen hears what exec says to its end, and returns what is then to be given back.
func listen(told io.Reader) (open []watched) {
	lines := bufio.NewReaderSize(told, watchdogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if string(line) == watchdogDone {
			return nil
		}
		var word watched
		if err == nil && json.Unmarshal(line, &word) == nil && word.Token != "" {
			open = slices.DeleteFunc(open, func(w watched) bool { return w.Token == word.Token })
			if !word.Gone {
				open = append(open, word)
			}
			if len(open) > watchdogMost {
				open = open[1:]
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return open // a last line that isn't whole was never meant
		}
	}
}

// giveAllBack gives back until all is, or until ctx ends.
func giveAllBack(ctx context.Context, open []watched) {
	slices.Reverse(open) // the latest live longest
	for {
		open = slices.DeleteFunc(open, func(w watched) bool { return w.giveBack(ctx) })
		if len(open) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchdogRest):
		}
	}
}

// giveBack reports whether there is nothing left to do, or to be had, about it.
func (w *watched) giveBack(ctx context.Context) bool {
	c, err := client.New(client.Config{URL: w.URL, CAFile: w.CACert, UserAgent: "daypass/" + version + " watchdog", Now: time.Now})
	if err != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, watchdogTry)
	defer cancel()
	_, err = c.RevokeSession(ctx, w.Token, "daypass exec ended without giving back")
	problem, refused := errors.AsType[*api.Problem](err)
	// To a broker of the version before, which may stand beside newer ones, a revocation
	// token is malformed.
	return err == nil || refused && problem.Code == api.CodeInvalidToken && problem.Reason != api.ReasonMalformed
}
