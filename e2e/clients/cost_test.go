package clients

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
)

// maxProgram is the largest that daypass may be, in bytes.
const maxProgram = 20 << 20

// TestCost: what `daypass exec -- true` costs over `true`. The size is held; time
// and CPU are told, since they are the machine's too (-v; -run TestCost).
func TestCost(t *testing.T) {
	b := brokertest.New(t, brokertest.Options{})
	daypass := programs(t) + "/daypass"
	if info, err := os.Stat(daypass); err != nil || info.Size() > maxProgram {
		t.Errorf("daypass has %d bytes, more than %d: %v", info.Size(), maxProgram, err)
	} else {
		t.Logf("daypass has %.1f MB", float64(info.Size())/1e6)
	}
	const runs = 9
	var wall, cpu, bare []time.Duration
	j := newJob(t, b)
	for range runs {
		j.env["DAYPASS_JOB_TOKEN"] = b.Job()
		for _, args := range [][]string{{"true"}, {daypass, "exec", "--grant", "payments/deploy-db", "--", "true"}} {
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			for name, value := range j.env {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			start := time.Now()
			out, err := cmd.CombinedOutput()
			took := time.Since(start)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if args[0] == "true" {
				bare = append(bare, took)
				continue
			}
			wall = append(wall, took)
			cpu = append(cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
	}
	for _, list := range [][]time.Duration{wall, cpu, bare} {
		slices.Sort(list)
	}
	t.Logf("daypass exec -- true: %v (least %v), true: %v, CPU of daypass and its child %v (least %v)", wall[runs/2], wall[0], bare[runs/2], cpu[runs/2], cpu[0])
	nothingLives(t, b)
}
