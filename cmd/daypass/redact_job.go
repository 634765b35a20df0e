package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/redact"
)

// maxJobLog bounds the log of a job, in bytes.
const maxJobLog = 1 << 30

// redactJob writes a finished job's log masked, tells what stood in it, and deletes
// it at its provider where that is asked for: in this order, so that whatever fails,
// nothing is lost.
func (p *program) redactJob(ctx context.Context, r *redaction, c *client.Client, token string, masker *redact.Masker) error {
	at, err := parseRun(r.job)
	if err != nil {
		return err
	}
	if r.erase {
		if err := at.canErase(); err != nil {
			return err
		}
	}
	log, err := openJobLog(ctx, r, at)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // it was only read
	if err := p.writeMasked(r.out, func(out io.Writer) error { return maskAll(ctx, c, token, masker, log, out) }); err != nil {
		return err
	}
	if c != nil {
		ask := &leakAsking{client: c, token: token, search: client.LeakSearch{Revoke: r.revoke, Source: at.name()}}
		if err := p.reportLeaks(ctx, r, ask, log); err != nil {
			return err
		}
	} else {
		p.say("what stood in the log was looked for by nobody: only a broker knows what it gave out")
	}
	if !r.erase {
		return nil
	}
	if err := at.erase(ctx); err != nil {
		return err
	}
	p.say("the log was deleted at %s; the masked copy is %s", at.host(), r.out)
	return nil
}

// openJobLog gives a finished job's log as a file that can be read twice.
func openJobLog(ctx context.Context, r *redaction, at *jobRun) (*os.File, error) {
	if r.jobLog != "" {
		f, err := os.Open(r.jobLog)
		if err != nil {
			return nil, fmt.Errorf("reading the job's log: %w", err)
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = errors.New("it is no file (hint: --job-log FILE is read twice)")
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("reading the job's log: %w", err)
		}
		return f, nil
	}
	f, err := nameless()
	if err != nil {
		return nil, err
	}
	if err := at.fetch(ctx, f); err != nil {
		_ = f.Close()
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// nameless makes a file that nobody else finds, and that is gone with this program.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "daypass-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("making a place for the job's log: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("making a place for the job's log: %w", err)
	}
	return f, nil
}

// writeMasked writes to standard output, or to a file that is there only once it is whole.
func (p *program) writeMasked(path string, write func(io.Writer) error) error {
	if path == "" {
		return write(p.stdout)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".daypass-*")
	if err != nil {
		return fmt.Errorf("writing the masked log: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is there only when something went wrong
	if err := write(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the masked log: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing the masked log: %w", err)
	}
	return nil
}

// reportLeaks tells what stood in a log: where standard output is the log's, on
// standard error.
func (p *program) reportLeaks(ctx context.Context, r *redaction, ask *leakAsking, log *os.File) error {
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading the job's log: %w", err)
	}
	found, err := ask.leaks(ctx, log)
	if err != nil {
		return err
	}
	to := *p
	if r.out == "" {
		to.stdout = p.stderr
	}
	if *r.report == outputJSON {
		encoder := json.NewEncoder(to.stdout)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(found)
	}
	if len(found.Leaks) > 0 {
		err = to.table(func(w io.Writer) {
			row(w, "LEASE", "KIND", "GRANT", "FIELD", "STATE", "BYTE", "FORM", "JOB")
			for _, l := range found.Leaks {
				row(w, orDash(l.LeaseID, l.SessionID, l.AdminID), l.Kind, orDash(l.Grant), orDash(l.Field), leakState(&l), fmt.Sprint(l.Offset), orDash(l.Form, "as it is"), orDash(l.Run, l.Subject))
			}
		})
	}
	p.say("%d secrets stood in %d bytes", len(found.Leaks), found.Bytes)
	if found.Truncated {
		p.say("warning: there were more than an answer holds: revoke those, and look again")
	}
	return err
}

func leakState(l *api.Leak) string {
	switch {
	case l.Revoked:
		return "revoked now"
	case l.Live:
		return "STILL WORKS"
	}
	return orDash(l.State)
}

// orDash is the first of several that isn't empty.
func orDash(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return "-"
}
