package clients

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
)

const (
	// maxProgram is the largest that daypass may be, in bytes.
	maxProgram = 20 << 20
	// maxPrepared is how many bytes the packages of daypass may allocate before main
	// begins, which is half as much again as they do. CEL alone would be five times that.
	maxPrepared = 96 << 10
	// maxTouched is how many pages of memory `daypass exec -- true` may touch, its
	// child's included: twice what it does. Where a page is dear (virtual machines
	// without help from the processor: 20 µs), they are most of what it costs.
	maxTouched = 1100
)

// TestCost: what `daypass exec -- true` costs over `true`. Its size and what it
// does with memory are held; time and CPU are told, since they are the machine's
// too: go test ./e2e/clients -run TestCost -v -count=1, on a machine at rest.
func TestCost(t *testing.T) {
	b := brokertest.New(t, brokertest.Options{})
	daypass := programs(t) + "/daypass"
	if info, err := os.Stat(daypass); err != nil || info.Size() > maxProgram {
		t.Errorf("daypass has %d bytes, more than %d: %v", info.Size(), maxProgram, err)
	} else {
		t.Logf("daypass has %.1f MB", float64(info.Size())/1e6)
	}
	prepared(t, daypass)
	runs := 3
	if testing.Verbose() {
		runs = 30
	}
	j := newJob(t, b)
	for _, grant := range []string{"payments/sign", "payments/deploy-db"} {
		var bare, whole costs
		for range runs {
			j.env["DAYPASS_JOB_TOKEN"] = b.Job()
			bare.add(j, "true")
			whole.add(j, daypass, "exec", "--grant", grant, "--", "true")
		}
		if pages := whole.pages[0]; pages > maxTouched {
			t.Errorf("with %s, %d pages are touched, more than %d", grant, pages, maxTouched)
		}
		// What a process has cost includes its children, so this child is taken off.
		t.Logf("%s, least (median) of %d: %v (%v) more than true's %v (%v), of which the client's own CPU %v (%v); %d pages",
			grant, runs, whole.wall[0]-bare.wall[0], whole.wall[runs/2]-bare.wall[runs/2], bare.wall[0], bare.wall[runs/2],
			whole.cpu[0]-bare.cpu[0], whole.cpu[runs/2]-bare.cpu[runs/2], whole.pages[0])
	}
	nothingLives(t, b)
}

// costs is what some runs of a program cost, each in order.
type costs struct {
	wall, cpu []time.Duration
	pages     []int64
}

func (c *costs) add(j *job, program string, args ...string) {
	j.t.Helper()
	cmd := exec.CommandContext(j.t.Context(), program, args...)
	for name, value := range j.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	c.wall = append(c.wall, time.Since(start))
	if err != nil {
		j.t.Fatalf("%s: %v\n%s", program, err, out.String())
	}
	c.cpu = append(c.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.pages = append(c.pages, usage.Minflt)
	}
	slices.Sort(c.wall)
	slices.Sort(c.cpu)
	slices.Sort(c.pages)
}

// prepared looks at what the packages of a program do before main begins. Go
// counts it, the same on every machine.
func prepared(t *testing.T, program string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sum, most, of := 0, 0, ""
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) .* (\d+) bytes`).FindAllStringSubmatch(string(out), -1) {
		n, _ := strconv.Atoi(m[2])
		if sum += n; n > most {
			most, of = n, m[1]
		}
	}
	if sum == 0 || sum > maxPrepared {
		t.Errorf("the packages of daypass allocate %d bytes before main begins, more than %d; most of them %s: %d (hint: GODEBUG=inittrace=1)\n%s", sum, maxPrepared, of, most, out)
	}
}

// TestPackedPolicy: the commands that a released daypass carries packed are there
// like any other, with their help, exit codes and completion.
func TestPackedPolicy(t *testing.T) {
	j := &job{t: t, dir: t.TempDir(), env: map[string]string{"PATH": os.Getenv("PATH")}}
	daypass := programs(t) + "/daypass"
	j.write("p.yaml", j.mustRun(daypass, "policy", "new", "--provider", "github", "--repository", "acme/payments", "--grant", "deploy-db",
		"--repository-id", "74", "--owner-id", "65", "--issuer", "db", "--environment", "production", "--owner", "payments@example.com"))
	for _, test := range []struct {
		args string
		code int
		out  string
	}{
		{"--url https://daypass.example.com policy fmt --check p.yaml", 0, ""},
		{"policy no-such", 2, "no such command"},
		{"help policy lint", 0, "Usage:"},
		{"--help", 0, "Check, test, explain"},
		{"__complete policy te", 0, "test\t"},
	} {
		out, code := j.run(daypass, strings.Fields(test.args)...)
		if code != test.code || !strings.Contains(out, test.out) {
			t.Errorf("daypass %s: exit code %d, want %d, and %q in\n%s", test.args, code, test.code, test.out, out)
		}
	}
}
