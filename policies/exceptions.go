package policies

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// exceptions adds the jobs of a policy's exceptions to their grants. An exception
// adds jobs, nothing else: they come last, and end by themselves.
func (l *loader) exceptions(f *document.Policy, p *policy) {
	if f.At.Has("exceptions") && len(f.Exceptions) == 0 && !l.reported(f.At.Of("exceptions")) {
		l.add(f.At.Of("exceptions"), "add one or leave the key out", "no exceptions")
	}
	for i := range f.Exceptions {
		entry := &f.Exceptions[i]
		if entry.At.Line == 0 {
			continue
		}
		l.said(entry.At, "owner", entry.Owner, "write who answers for it: an address or a team")
		l.said(entry.At, "reason", entry.Reason, "write why, and where that is on record")
		if entry.At.Has("jobs") && len(entry.Jobs) == 0 && !l.reported(entry.At.Of("jobs")) {
			l.add(entry.At.Of("jobs"), "add one", "no jobs")
		}
		g := l.exceptionGrant(entry, p)
		for n := range entry.Jobs {
			if entry.Jobs[n].At.Line == 0 {
				continue
			}
			named := entry.Jobs[n].Job()
			named.Name = exceptionName(i, n, len(entry.Jobs))
			j := l.job(named)
			j.until = time.Time(entry.Until).UTC()
			if g != nil {
				g.jobs = append(g.jobs, j)
			}
		}
	}
}

// exceptionName is what leases and denials call an exception's job entry.
func exceptionName(i, n, jobs int) string {
	if jobs == 1 {
		return fmt.Sprintf("exception %d", i+1)
	}
	return fmt.Sprintf("exception %d.%d", i+1, n+1)
}

func (l *loader) exceptionGrant(entry *document.Exception, p *policy) *grant {
	if !entry.At.Has("grant") || l.reported(entry.At.Of("grant")) {
		return nil
	}
	names := make([]string, len(p.grants))
	for i, g := range p.grants {
		names[i] = g.name
	}
	i := slices.Index(names, entry.Grant)
	if i < 0 {
		l.add(entry.At.Of("grant"), strictyaml.Suggest(entry.Grant, names), "there is no grant %q in this policy", clip(entry.Grant))
		return nil
	}
	// The list may be the policy's own: others have it too.
	p.grants[i].jobs = slices.Clone(p.grants[i].jobs)
	return p.grants[i]
}

// said checks a text that people have to write.
func (l *loader) said(at strictyaml.Where, key, text, hint string) {
	if at.Has(key) && (strings.TrimSpace(text) == "" || len(text) > maxText) && !l.reported(at.Of(key)) {
		l.add(at.Of(key), hint, "%s has between 1 and %d bytes", key, maxText)
	}
}
