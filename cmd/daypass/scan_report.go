package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

// scanReport is what a scan comes to.
type scanReport struct {
	Leaks    []scanLeak   `json:"leaks"`
	Unread   []scanUnread `json:"unread,omitempty"`
	Notes    []string     `json:"notes,omitempty"`
	Texts    int          `json:"texts"`    // that were looked at
	Bytes    int64        `json:"bytes"`    // of them
	Complete bool         `json:"complete"` // nothing stayed unread
}

// scanLeak is one secret that was found, and where.
type scanLeak struct {
	Path       string `json:"path,omitempty"` // of the file, with members of archives behind it
	Line       int    `json:"line"`
	Repository string `json:"repository,omitempty"`
	Object     string `json:"object,omitempty"` // of git
	Commit     string `json:"commit,omitempty"` // that brought it
	api.Leak          // its offset is in the text

	objectKind string
}

// scanUnread is what was not read, in whole or from some place on.
type scanUnread struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// leak notes what was found.
func (s *scan) leak(text scanText, line int, leak api.Leak) {
	key := scanKey{text, leak.Offset, leak.Length, leak.LeaseID, leak.SessionID}
	if s.seen[key] {
		return
	}
	s.seen[key] = true
	if text.kind == "commit" || text.kind == "tag" {
		text.path = ""
	}
	s.found = append(s.found, scanLeak{Path: text.path, Line: line, Repository: text.repo, Object: text.object, Leak: leak, objectKind: text.kind})
}

// place is where it stands, for people.
func (l *scanLeak) place() string {
	switch {
	case l.Object == "":
		return fmt.Sprintf("%s:%d", l.Path, l.Line)
	case l.objectKind != "blob":
		return fmt.Sprintf("%s %.12s:%d", l.objectKind, l.Object, l.Line)
	case l.Commit != "":
		return fmt.Sprintf("%.12s:%s:%d", l.Commit, l.Path, l.Line)
	}
	return strings.TrimSuffix(fmt.Sprintf("blob %.12s:%d %s", l.Object, l.Line, l.Path), " ")
}

// tell prints the report, and says by its error what it comes to.
func (s *scan) tell(flags *scanFlags, out output) error {
	r := &s.report
	r.Leaks, r.Complete = append([]scanLeak{}, s.found...), len(r.Unread) == 0
	slices.SortStableFunc(r.Leaks, func(a, b scanLeak) int {
		if by := strings.Compare(a.Path, b.Path); by != 0 {
			return by
		}
		return int(min(max(a.Offset-b.Offset, -1), 1))
	})
	var err error
	if out == outputJSON {
		err = s.p.printJSON(r)
	} else if len(r.Leaks) > 0 {
		err = s.p.printLeaks(r.Leaks, flags.local)
	}
	if err != nil {
		return err
	}
	s.sayRest(flags.local)
	if len(r.Leaks) > 0 || !r.Complete && !flags.some {
		return &exit{code: exitFailed}
	}
	return nil
}

func (p *program) printLeaks(leaks []scanLeak, local bool) error {
	return p.table(func(w io.Writer) {
		if local {
			row(w, "PLACE", "KIND", "FORM")
			for _, l := range leaks {
				row(w, l.place(), l.Kind, l.Form)
			}
			return
		}
		row(w, "PLACE", "KIND", "LEASE", "GRANT", "WORKS", "ISSUED", "JOB", "FORM")
		for _, l := range leaks {
			row(w, l.place(), l.Kind, whose(&l.Leak), l.Grant, works(&l.Leak), stampOf(l.IssuedAt), job(&l.Leak), l.Form)
		}
	})
}

// whose is the id of what a value belongs to.
func whose(l *api.Leak) string {
	for _, id := range []string{l.LeaseID, l.AdminID, l.SessionID} {
		if id != "" {
			return id
		}
	}
	return ""
}

func works(l *api.Leak) string {
	switch {
	case l.Revoked:
		return "revoked"
	case l.Live:
		return "yes"
	case l.Kind == "unknown_token":
		return "unknown"
	}
	return "no"
}

func job(l *api.Leak) string {
	if l.Run != "" {
		return l.Run
	}
	return l.Subject
}

// maxSaid bounds what is told of what was not read; JSON has all of it.
const maxSaid = 50

// sayRest tells what was not read, and what it all comes to.
func (s *scan) sayRest(local bool) {
	r := &s.report
	for _, note := range r.Notes[:min(maxSaid, len(r.Notes))] {
		s.p.say("%s", note)
	}
	for _, unread := range r.Unread[:min(maxSaid, len(r.Unread))] {
		s.p.say("not read: %s: %s", unread.Path, unread.Why)
	}
	if more := len(r.Unread) - maxSaid; more > 0 {
		s.p.say("not read: %d more", more)
	}
	live := 0
	for _, l := range r.Leaks {
		if l.Live {
			live++
		}
	}
	what := fmt.Sprintf("%d of them still work", live)
	if local {
		what = "whose they are only the broker can say"
	}
	s.p.say("%d found, %s; %d texts with %d bytes, %d not read", len(r.Leaks), what, r.Texts, r.Bytes, len(r.Unread))
}
