package config

import (
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Reconcile says how what stands on the targets is compared with the leases.
type Reconcile struct {
	At          strictyaml.Where    `yaml:"-"`
	Every       strictyaml.Duration `yaml:"every"`         // absent: 1h; from 1m to 7d
	Grace       strictyaml.Duration `yaml:"grace"`         // how long a credential is without a live lease before it is taken back; absent: 10m; from 1m to 7d
	DryRunFirst bool                `yaml:"dry_run_first"` // by schedule nothing is taken back before an operator did
}

func (l *loader) reconcile() {
	c := &l.config.Reconcile
	for _, d := range []struct {
		key      string
		value    *strictyaml.Duration
		fallback time.Duration
	}{{"every", &c.Every, time.Hour}, {"grace", &c.Grace, 10 * time.Minute}} {
		at := c.At.Of(d.key)
		switch {
		case *d.value == 0 && !c.At.Has(d.key) && !l.set["reconcile."+d.key]:
			*d.value = strictyaml.Duration(d.fallback)
		case (d.value.Std() < time.Minute || d.value.Std() > 7*24*time.Hour) && !l.reported(at):
			l.add(at, "leave it out for its default", "%s is from 1m to 7d", d.key)
		}
	}
}
