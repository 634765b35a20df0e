package restore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/restore"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
)

// keeper is a target that remembers an epoch, or is away.
type keeper struct {
	issuertest.Fake
	at   *int64 // the epoch that the issuer was opened with
	high int64
	err  error
}

func (k *keeper) RaiseEpoch(context.Context) (int64, error) {
	if k.err != nil {
		return 0, k.err
	}
	k.high = max(k.high, *k.at)
	return k.high, nil
}

// TestPromoteWithTargetsAway: a target that is away keeps nobody from promoting, and
// is named; one that knows of a later epoch has its say; and one that keeps none is
// told apart from both.
func TestPromoteWithTargetsAway(t *testing.T) {
	t.Parallel()
	config, sealer, what := apart(t)
	what.Mode = restore.Promote
	open(t, config, sealer).Pool.Close()
	var at int64
	const later = int64(1) << 40 // of a clock that was far ahead
	away := &keeper{at: &at, err: fmt.Errorf("%w: nobody is at home", issuers.ErrUnavailable)}
	knows, none := &keeper{at: &at, high: later}, &keeper{at: &at, err: issuers.ErrNoEpoch}
	targets := restore.Targets{"away": away, "knows": knows, "none": none, "plain": &issuertest.Fake{}}
	closed, opened := 0, 0
	what.OpenTargets = func(_ context.Context, _ string, epoch int64) (restore.Targets, func(), error) {
		at, opened = epoch, opened+1
		return targets, func() { closed++ }, nil
	}
	report, err := apply(t, what)
	if err != nil || report.Epoch != later+1 || knows.high != report.Epoch {
		t.Fatalf("%+v, and the target knows %d: %v", report, knows.high, err)
	}
	said := map[string]string{}
	for _, target := range report.Targets {
		said[target.Issuer] = target.Epoch
	}
	if said["knows"] != restore.Keeps || said["none"] != restore.NoEpoch || said["plain"] != restore.NoEpoch || !strings.Contains(said["away"], "nobody is at home") {
		t.Errorf("the targets are said to be %v", said)
	}
	if opened != 2 || closed != opened {
		t.Errorf("targets were opened %d times and closed %d times", opened, closed)
	}
	if after := open(t, config, sealer); after.Identity.Epoch != report.Epoch {
		t.Errorf("a broker sees epoch %d, want %d", after.Identity.Epoch, report.Epoch)
	}
	// It is back, and the next promotion tells it.
	away.err = nil
	again, err := apply(t, what)
	if err != nil || again.Epoch <= report.Epoch || away.high != again.Epoch {
		t.Errorf("%+v, and the target knows %d: %v", again, away.high, err)
	}
}

// TestDropSealed gives up the static secrets that nobody can open any more, says
// which, and nothing else.
func TestDropSealed(t *testing.T) {
	t.Parallel()
	config, sealer, what := apart(t)
	what.Mode = restore.NewInstallation
	before := open(t, config, sealer)
	values, err := before.Sealer(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := values.Seal(t.Context(), row(before.Installation), []byte("lost"))
	values.Close()
	if err != nil {
		t.Fatal(err)
	}
	keepSecret(t, before, sealed)
	before.Pool.Close()
	what.Sealer, _ = brokertest.Keys(t) // not the one that it was sealed by
	what.DropSealed = true
	report, err := apply(t, what)
	if err != nil || len(report.Lost) != 1 || report.Secrets != 0 {
		t.Fatalf("%+v: %v", report, err)
	}
	after := open(t, config, what.Sealer)
	var state string
	var value []byte
	var current *int
	const read = `SELECT v.state, v.value, (SELECT version FROM secret_versions c WHERE c.secret_id = v.secret_id AND c.state = 'current') FROM secret_versions v`
	if err := after.Pool.QueryRow(t.Context(), read).Scan(&state, &value, &current); err != nil || state != "destroyed" || value != nil || current != nil {
		t.Errorf("the version is %s, with a value of %d bytes, current %v: %v", state, len(value), current, err)
	}
	if n := 0; after.Pool.QueryRow(t.Context(), `SELECT count(*) FROM secrets`).Scan(&n) != nil || n != 1 {
		t.Errorf("%d secrets are left, want the one, without a value", n)
	}
}
