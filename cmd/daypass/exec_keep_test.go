package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// waits is a command that goes on until the test lets it end, with a code.
const waits = `until [ -e done ]; do sleep 0.1; done; exit 6`

// What can be renewed is, as long as the command runs, and nothing is said about it.
func TestExecRenews(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second, renewals: map[string]int{"ci/db": 100}}
	j := k.job(nil, "--grant", "ci/db", "--", "sh", "-c", waits)
	j.until("two renewals", func() bool { return strings.Count(strings.Join(j.log(), "\n"), "renewed") >= 2 })
	j.touch("done")
	j.exits(6)
	if text := j.err.String(); text != "" {
		t.Errorf("it was said: %s", text)
	}
}

func (k *keepBroker) log() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.events)
}

// By default the command goes on, and whoever reads its log is told in time.
func TestExecWarns(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second}
	j := k.job(nil, "--grant", "ci/db", "--grant", "ci/aws", "--", "sh", "-c", waits)
	j.until("two warnings", func() bool { return strings.Count(j.err.String(), "\n") >= 2 })
	j.touch("done")
	j.exits(6)
	for _, grant := range []string{"ci/db", "ci/aws"} {
		if text := j.err.String(); strings.Count(text, "warning: the credential of "+grant+" ends at ") != 1 || !strings.Contains(text, "hint: --on-expiry") {
			t.Errorf("want one warning for %s:\n%s", grant, text)
		}
	}
}

// A command that is to be stopped gets SIGTERM, and SIGKILL when that doesn't help.
func TestExecStops(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ script, out string }{
		"by SIGTERM": {`trap 'echo tidied up; exit 5' TERM; echo begun; while :; do sleep 0.1; done`, "begun\ntidied up\n"},
		"by SIGKILL": {`trap '' TERM; echo begun; while :; do sleep 0.1; done`, "begun\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := &keepBroker{t: t, ttl: 8 * time.Second}
			j := k.job(nil, "--grant", "ci/db", "--on-expiry", "stop", "--stop-grace", "1s", "--", "sh", "-c", test.script)
			j.exits(exitFailed)
			if j.out.String() != test.out || !strings.Contains(j.err.String(), "daypass: stopped the command: the credential of ci/db ends at 20") {
				t.Errorf("printed %q and %q", j.out.String(), j.err.String())
			}
		})
	}
	t.Run("when renewals fail", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: 10 * time.Second, renewals: map[string]int{"ci/db": 1}, refuse: func(int, string) *api.Problem { return nil }}
		j := k.job(nil, "--grant", "ci/db", "--on-expiry", "stop", "--stop-grace", "0s", "--", "sh", "-c", waits)
		j.exits(exitFailed)
		if !strings.Contains(j.err.String(), "stopped the command") {
			t.Errorf("printed %q", j.err.String())
		}
	})
	t.Run("a command that ends before has its own code", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: time.Minute}
		k.job(nil, "--grant", "ci/db", "--on-expiry", "stop", "--", "sh", "-c", "exit 6").exits(6)
	})
}

// restarts is a command that says with which credentials it runs, each time.
const restarts = `echo "$DB_USER" >>users; echo "token $DB_TOKEN"; trap 'echo stopped; exit 0' TERM; until [ -e done ]; do sleep 0.1; done; exit 6`

func TestExecRestarts(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second}
	j := k.job(nil, "--grant", "ci/db", "--grant", "ci/aws", "--file", "AWS=ci/aws:token", "--on-expiry", "restart", "--", "sh", "-c", `cat "$AWS" >>files; `+restarts)
	j.until("the third start", func() bool { return strings.Count(j.read("users"), "\n") >= 3 })
	j.touch("done")
	j.exits(6)
	if got := j.read("users"); !strings.HasPrefix(got, "user-1\nuser-2\nuser-3\n") {
		t.Errorf("it ran with %q", got)
	}
	if got := j.read("files"); !strings.HasPrefix(got, "secret-aws-1-that-is-longsecret-aws-2-that-is-longsecret-aws-3-that-is-long") {
		t.Errorf("its files held %q", got)
	}
	if got := j.out.String(); !strings.HasPrefix(got, "token [daypass:redacted]\nstopped\ntoken [daypass:redacted]\nstopped\n") {
		t.Errorf("printed %q", got)
	}
	// The session goes on, so that only leases are given back before the end.
	j.order("exchange 1", "exchange 2", "revoked lse_db_1", "revoked lse_aws_1", "exchange 3", "revoked lse_db_2", "session revoked dps_session-token-3")
	if k.jobs != 1 || k.asked[1] != "dps_session-token-1-of-ses_1" || k.asked[2] != "dps_session-token-2-of-ses_1" {
		t.Errorf("asked with %q", k.asked)
	}
}

// What is refused is tried again; what was got and can't be used is given back.
func TestExecTriesAgain(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 30 * time.Second, refuse: func(n int, _ string) *api.Problem {
		if n == 2 || n == 3 {
			return &api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not now"}
		}
		return nil
	}}
	j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "0s", "--", "sh", "-c", restarts)
	j.until("the second start", func() bool { return strings.Count(j.read("users"), "\n") >= 2 })
	j.touch("done")
	j.exits(6)
	if text := j.err.String(); strings.Count(text, "others can't be had") != 1 || !strings.Contains(text, "not_allowed") || j.read("users") != "user-1\nuser-4\n" {
		t.Errorf("printed %q, ran as %q", text, j.read("users"))
	}
}

// When there are no others to be had, the command is stopped.
func TestExecGivesUp(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 3 * time.Second, refuse: func(n int, _ string) *api.Problem {
		if n > 1 {
			return &api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not any more"}
		}
		return nil
	}}
	j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "0s", "--", "sh", "-c", waits)
	j.exits(exitFailed)
	if text := j.err.String(); !strings.Contains(text, "stopped the command: the credential of ci/db ends at") || !strings.Contains(text, "others could not be had") {
		t.Errorf("printed %q", text)
	}
}

// Where the session leads no further, the CI system is asked for another job token,
// if it has one.
func TestExecOpensAnotherSession(t *testing.T) {
	t.Parallel()
	t.Run("the session is refused", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: 3 * time.Second, refuse: func(_ int, token string) *api.Problem {
			if strings.HasPrefix(token, "dps_") {
				return &api.Problem{Status: 401, Code: api.CodeInvalidToken, Reason: api.ReasonExpired, Detail: "over"}
			}
			return nil
		}}
		j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--", "sh", "-c", restarts)
		j.until("the second start", func() bool { return strings.Count(j.read("users"), "\n") >= 2 })
		j.until("giving the first session back", func() bool { return j.did("session revoked dps_session-token-1-of-ses_1") })
		j.touch("done")
		j.exits(6)
		if k.asked[2] != "job-token-2-of-the-runner" {
			t.Errorf("asked with %q", k.asked)
		}
	})
	t.Run("the session ends first", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: time.Hour, session: 3 * time.Second}
		j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--", "sh", "-c", restarts)
		j.until("the second start", func() bool { return strings.Count(j.read("users"), "\n") >= 2 })
		j.touch("done")
		j.exits(6)
		if k.asked[1] != "job-token-2-of-the-runner" {
			t.Errorf("asked with %q", k.asked)
		}
	})
	t.Run("there is one token alone", func(t *testing.T) {
		t.Parallel()
		k := &keepBroker{t: t, ttl: time.Hour, session: 3 * time.Second}
		j := k.job(func(c *exec.Cmd) {
			c.Env = append(c.Env, "GITHUB_ACTIONS=", "ACTIONS_ID_TOKEN_REQUEST_URL=", "GITLAB_CI=true", "DAYPASS_JOB_TOKEN=job-token-of-gitlab")
		}, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "0s", "--", "sh", "-c", waits)
		j.exits(exitFailed)
		if text := j.err.String(); !strings.Contains(text, "their session ends at ") || !strings.Contains(text, "this job has no token but the one that it began with (hint: a longer session_ttl") {
			t.Errorf("printed %q", text)
		}
	})
}

// Files are replaced while the command runs, which is told by a signal; what stands
// in its environment stays alive.
func TestExecReissues(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second, renewals: map[string]int{"ci/db": 100}}
	j := k.job(nil, "--grant", "ci/db", "--grant", "ci/aws", "--file", "TOKEN_FILE=ci/aws:token", "--file", "USER_FILE=ci/aws:user", "--on-expiry", "reissue", "--reissue-signal", "HUP", "--",
		"sh", "-c", `echo "$DB_TOKEN $AWS_TOKEN"; ls -lL "$TOKEN_FILE" >mode; ls -ld "${TOKEN_FILE%/now/*}" >>mode
			show() { cat "$USER_FILE" >>users; echo >>users; cat "$TOKEN_FILE"; echo; cat "$TOKEN_FILE" >&2; echo >&2; }; show; trap show HUP; `+waits)
	j.until("three re-issues", func() bool { return strings.Count(j.read("users"), "\n") >= 4 })
	if k.did("revoked lse_db_1") || k.did("session revoked") {
		t.Error("what stands in the environment was given back")
	}
	j.touch("done")
	j.exits(6)
	if got := j.read("users"); !strings.HasPrefix(got, "user-1\nuser-2\nuser-3\nuser-4\n") {
		t.Errorf("files held %q", got)
	}
	if got := j.read("mode"); !strings.HasPrefix(got, "-rw-------") || !strings.Contains(got, "\ndrwx------") {
		t.Errorf("modes:\n%s", got)
	}
	j.order("exchange 1", "exchange 2", "revoked lse_aws_1", "exchange 3", "revoked lse_aws_2", "exchange 4", "session revoked")
	if n := strings.Count(j.out.String(), "[daypass:redacted]"); n < 6 {
		t.Errorf("%d masks in %q", n, j.out.String())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.most["ci/db"] != 1 {
		t.Errorf("%d credentials of a grant that stands in no file", j.most["ci/db"])
	}
}

// However a command ends while others are being got, all is given back.
func TestExecEndsWhileItReissues(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(j *keptJob)
		code int
	}{
		"by itself":          {func(j *keptJob) { j.touch("done") }, 6},
		"by a signal":        {func(j *keptJob) { _ = j.cmd.Process.Signal(syscall.SIGTERM) }, exitSignal + int(syscall.SIGTERM)},
		"by its own SIGKILL": {func(j *keptJob) { j.touch("die") }, exitSignal + int(syscall.SIGKILL)},
	} {
		for _, mode := range []string{onExpiryRestart, onExpiryReissue} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				let := make(chan struct{})
				k := &keepBroker{t: t, ttl: 3 * time.Second, hold: map[int]chan struct{}{2: let}}
				j := k.job(nil, "--grant", "ci/db", "--file", "DB_FILE=ci/db:token", "--on-expiry", mode, "--", "sh", "-c",
					`echo run >>runs; until [ -e done ]; do [ ! -e die ] || kill -9 $$; sleep 0.1; done; exit 6`)
				j.until("asking anew", func() bool { return j.did("exchange 2") })
				test.end(j)
				j.until("the command's end", func() bool {
					return exec.Command("pgrep", "-P", fmt.Sprint(j.cmd.Process.Pid)).Run() != nil
				})
				close(let) // the answer comes when nobody needs it any more
				j.exits(test.code)
				if j.read("runs") != "run\n" {
					t.Errorf("it ran more than once: %q", j.read("runs"))
				}
			})
		}
	}
}

// A command that is told to end while it is stopped isn't started again.
func TestExecIsToldToEndBetweenTwoCommands(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			k := &keepBroker{t: t, ttl: 2 * time.Second}
			j := k.job(nil, "--grant", "ci/db", "--on-expiry", "restart", "--stop-grace", "1m", "--", "sh", "-c",
				`echo run >>runs; trap '' INT; trap 'touch stopping; until [ -e done ]; do sleep 0.1; done; exit 4' TERM; touch begun; while :; do sleep 0.1; done`)
			j.until("being stopped", func() bool { _, err := os.Stat(filepath.Join(j.dir, "stopping")); return err == nil })
			if err := j.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(200*time.Millisecond, func() { j.touch("done") })
			j.exits(4)
			if j.read("runs") != "run\n" {
				t.Errorf("it ran more than once: %q", j.read("runs"))
			}
		})
	}
	signals := make(chan os.Signal, 4)
	for _, s := range []os.Signal{syscall.SIGWINCH, syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGTERM} {
		signals <- s
	}
	if got := pending(signals); got != syscall.SIGHUP {
		t.Errorf("pending: %v", got)
	}
}

// A terminal is no obstacle: the command's tree is stopped, the next one gets one too.
func TestExecInATerminalIsStartedAgain(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: 2 * time.Second}
	dir, url := t.TempDir(), k.start()
	env := func(c *exec.Cmd) {
		c.Dir = dir
		c.Env = append(c.Env, "DAYPASS_URL="+url)
	}
	s := newScreen(t, env, "daypass", "exec", "--grant", "ci/db", "--on-expiry", "restart", "--", "sh", "-c",
		`[ -t 0 ] && [ -t 1 ] && echo "on $(stty size) as $DB_USER $DB_TOKEN."; sleep 60`)
	s.expect("on 41 107 as user-1 [daypass:redacted].")
	s.expect("on 41 107 as user-2 [daypass:redacted].")
	s.typed("\x03")
	s.exits(exitSignal + int(syscall.SIGINT))
	k.nothingLives()

	k = &keepBroker{t: t, ttl: 8 * time.Second}
	url = k.start()
	s = newScreen(t, env, "daypass", "exec", "--grant", "ci/db", "--on-expiry", "stop", "--stop-grace", "1s", "--", "sh", "-c", `echo ready; sleep 60; echo no`)
	s.expect("daypass: stopped the command: ")
	s.exits(exitFailed)
	k.nothingLives()
	if strings.Contains(s.text(), "holds its output open") || !strings.Contains(s.text(), "\r\ndaypass: ") {
		t.Errorf("on the screen:\n%s", s.text())
	}
}

// What was typed wrong is said before anything is asked for.
func TestExecFlagsThatCannotBe(t *testing.T) {
	ok := []string{"--grant", "ci/db"}
	for want, args := range map[string][]string{
		`--on-expiry "never"`:      {"--on-expiry", "never"},
		"--on-expiry reissue":      {"--on-expiry", "reissue"},
		"--reissue-signal goes":    {"--reissue-signal", "HUP"},
		`--reissue-signal "KILL"`:  {"--reissue-signal", "KILL", "--on-expiry", "reissue", "--file", "A=ci/db:token"},
		"--stop-grace":             {"--stop-grace", "1h"},
		"want VARIABLE=":           {"--file", "A=ci/db"},
		"LD_PRELOAD":               {"--file", "LD_PRELOAD=ci/db:token"},
		"PATH":                     {"--file", "PATH=ci/db:token"},
		`"a": a name matches`:      {"--file", "a=ci/db:token"},
		"sets A twice":             {"--file", "A=ci/db:token", "--file", "A=ci/db:user"},
		"ci/aws is not asked for":  {"--file", "A=ci/aws:token"},
		"33 times --file, want 32": slices.Repeat([]string{"--file", "A=ci/db:token"}, 33),
	} {
		var errs bytes.Buffer
		p := &program{stdout: &errs, stderr: &errs}
		if code := p.main(t.Context(), slices.Concat([]string{"exec"}, ok, args, []string{"--", "true"})); code != exitUsage || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: exit code %d, %s", args, code, errs.String())
		}
	}
}

// A field that isn't there is named with those that are, and nothing is run.
func TestExecHasNoSuchField(t *testing.T) {
	t.Parallel()
	k := &keepBroker{t: t, ttl: time.Minute}
	j := k.job(nil, "--grant", "ci/db", "--file", "A=ci/db:password", "--", "touch", "begun")
	j.exits(exitFailed)
	if text := j.err.String(); !strings.Contains(text, `--file A: ci/db has no field "password" (hint: it has token, user)`) {
		t.Errorf("printed %q", text)
	}
	if _, err := os.Stat(filepath.Join(j.dir, "begun")); err == nil {
		t.Error("the command was run")
	}
}
