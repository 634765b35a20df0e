//go:build !packed

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/rerun"
	"github.com/daypass/daypass/policies/strictyaml"
)

// replay is what `policy replay` was asked for.
type replay struct {
	since, file, config string
	failOnChange        bool
}

func (p *program) policyReplayCommand() *cobra.Command {
	var r replay
	cmd := &cobra.Command{
		Use:   "replay [PATH...]",
		Short: "Decide recorded decisions again, with changed policies",
		Long: `Replay reads the decisions that a broker has on record, decides each again with the
policies in PATH, with the claims, the time, the ttl and the address it was asked with,
and prints what would come out otherwise: what was allowed and would be denied, and what
was denied and would be allowed. It needs an admin's token (--token-file or
DAYPASS_ADMIN_TOKEN_FILE), or a --file of decisions that was saved from GET /v1/decisions.

Denials of strangers are counted by the broker, not recorded one by one: what a changed
policy would allow them doesn't show here.

Exit code 0, whatever changes; with --fail-on-change 1 when anything does.`,
		Example: `  daypass policy replay --since 30d policies/
  daypass policy replay --since 2026-11-01T00:00:00Z --fail-on-change policies/
  daypass policy replay --file decisions.json --output json policies/`,
	}
	out := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&r.since, "since", "30d", "how far to go back: a duration like 30d, or a time")
	flags.StringVar(&r.file, "file", "", `read decisions from a JSON file instead of a broker, "-" for standard input`)
	flags.BoolVar(&r.failOnChange, "fail-on-change", false, "exit with 1 when anything would come out otherwise")
	configFlag(cmd, &r.config)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		report, err := p.replay(cmd.Context(), &r, args)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			err = p.printJSON(replayOf(report))
		} else {
			err = p.printReplay(report)
		}
		if err == nil && r.failOnChange && report.Denied+report.Allowed > 0 {
			return &exit{exitFailed, nil}
		}
		return err
	}
	return cmd
}

func (p *program) replay(ctx context.Context, r *replay, args []string) (*rerun.Report, error) {
	since, err := past(r.since, p.now())
	if err != nil {
		return nil, err
	}
	l, err := p.mustLoad(ctx, args, r.config)
	if err != nil {
		return nil, err
	}
	run := rerun.New(l.set)
	take := func(list []api.Decision) error {
		for i := range list {
			d, err := decisionOf(&list[i])
			if err != nil {
				return fmt.Errorf("reading decision %s: %w", list[i].ID, err)
			}
			if !d.At.Before(since) {
				run.Add(d)
			}
		}
		return nil
	}
	if r.file != "" {
		err = p.eachSaved(r.file, take)
	} else {
		err = p.eachRecorded(ctx, since, take)
	}
	if err != nil {
		return nil, err
	}
	report := run.Report()
	return &report, nil
}

// past reads a time, or a duration before now.
func past(text string, now time.Time) (time.Time, error) {
	if d, err := strictyaml.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usage("--since: %q is no duration and no time (hint: 30d or 2026-11-23T10:00:00Z)", text)
	}
	return t, nil
}

// eachRecorded asks the broker, page by page.
func (p *program) eachRecorded(ctx context.Context, since time.Time, take func([]api.Decision) error) error {
	c, token, err := p.withToken()
	if err != nil {
		return err
	}
	cursor := ""
	for {
		page, err := c.Decisions(ctx, token, client.DecisionFilter{Since: since, Limit: pageSize}, cursor)
		if err != nil {
			return err
		}
		if err := take(page.Decisions); err != nil {
			return err
		}
		switch page.Next {
		case "":
			return nil
		case cursor:
			return errors.New("the broker's list goes in circles")
		}
		cursor = page.Next
	}
}

// eachSaved reads a file: one answer of the API, or several one after the other.
func (p *program) eachSaved(file string, take func([]api.Decision) error) error {
	from := io.Reader(p.stdin)
	if file != "-" {
		f, err := os.Open(file) //nolint:gosec // the file that the caller names is the one to read
		if err != nil {
			return fmt.Errorf("reading decisions: %w", err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		from = f
	}
	decoder := json.NewDecoder(from)
	for {
		var page api.DecisionList
		err := decoder.Decode(&page)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading decisions: %w", err)
		}
		if err := take(page.Decisions); err != nil {
			return err
		}
	}
}

// decisionOf is a recorded decision as the policies take it.
func decisionOf(d *api.Decision) (rerun.Decision, error) {
	made := rerun.Decision{
		ID: d.ID, RequestID: d.RequestID, At: d.At, Allowed: d.Allowed, Job: d.Job, Detail: d.Detail,
		Identity: policies.Identity{Provider: d.Provider, ProviderType: d.ProviderType, Subject: d.Subject, Claims: d.Claims, Expiry: d.TokenExpiresAt},
		Request:  policies.Request{Grant: d.Grant},
	}
	var err error
	if d.TTL != "" {
		if made.Request.TTL, err = strictyaml.ParseDuration(d.TTL); err != nil {
			if made.Request.TTL, err = time.ParseDuration(d.TTL); err != nil {
				return made, fmt.Errorf("its ttl %q is no duration", d.TTL)
			}
		}
	}
	if d.IP != "" {
		if made.Request.IP, err = netip.ParseAddr(d.IP); err != nil {
			return made, fmt.Errorf("its ip %q is no address", d.IP)
		}
	}
	return made, nil
}

// replayJSON is the report, as JSON has it.
type replayJSON struct {
	Decisions   int           `json:"decisions"`
	Same        int           `json:"same"`
	WouldDeny   int           `json:"would_deny"`
	WouldAllow  int           `json:"would_allow"`
	Differences []replayGroup `json:"differences"`
}

type replayGroup struct {
	Change  rerun.Change  `json:"change"` // denied or allowed, by the policies in PATH
	Grant   string        `json:"grant"`
	Job     string        `json:"job"`
	Count   int           `json:"count"`
	First   time.Time     `json:"first"`
	Last    time.Time     `json:"last"`
	Claims  []string      `json:"claims,omitempty"` // that don't match
	Why     string        `json:"why,omitempty"`
	Example replayExample `json:"example"`
}

type replayExample struct {
	ID        string         `json:"id"`
	RequestID string         `json:"request_id"`
	At        time.Time      `json:"at"`
	Provider  string         `json:"provider"`
	Subject   string         `json:"subject,omitempty"`
	Claims    map[string]any `json:"claims"`
}

func replayOf(r *rerun.Report) replayJSON {
	list := replayJSON{Decisions: r.Decisions, Same: r.Same, WouldDeny: r.Denied, WouldAllow: r.Allowed, Differences: []replayGroup{}}
	for i := range r.Groups {
		g := &r.Groups[i]
		d := &g.Example
		list.Differences = append(list.Differences, replayGroup{
			Change: g.Change, Grant: g.Grant, Job: g.Job, Count: g.Count, First: g.First, Last: g.Last, Claims: g.Claims, Why: g.Why,
			Example: replayExample{d.ID, d.RequestID, d.At, d.Identity.Provider, d.Identity.Subject, d.Identity.Claims},
		})
	}
	return list
}

func (p *program) printReplay(r *rerun.Report) error {
	var b strings.Builder
	// What comes from tokens can't begin a line of its own.
	line := func(format string, args ...any) { b.WriteString(clean(fmt.Sprintf(format, args...)) + "\n") }
	for i := range r.Groups {
		g := &r.Groups[i]
		d := &g.Example
		then, when := "allowed then, denied now", "now"
		if g.Change == rerun.Allowed {
			then, when = "denied then, allowed now", "then"
		}
		line("%s, job %s: %s: %s", g.Grant, g.Job, plural(g.Count, "decision"), then)
		line("  between %s and %s", stamp(g.First), stamp(g.Last))
		line("  such as request %s at %s: %s %s", d.RequestID, stamp(d.At), d.Identity.Provider, d.Identity.Subject)
		if len(g.Claims) > 0 {
			line("  claims that don't match: %s", strings.Join(g.Claims, ", "))
		}
		if g.Why != "" {
			line("  denied %s: %s", when, g.Why)
		}
	}
	line("%s: %d would be denied, %d would be allowed, %d as before", plural(r.Decisions, "decision"), r.Denied, r.Allowed, r.Same)
	_, err := io.WriteString(p.stdout, b.String())
	return err
}
