package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/client"
)

func (p *program) auditCheckpointCommand() *cobra.Command {
	return &cobra.Command{
		Use: "checkpoint", Short: "Print the last signed checkpoint, to keep it elsewhere", Args: exactly(0, "none"),
		Example: "  daypass audit checkpoint > $(date +%F).checkpoint",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, token, err := p.withToken()
			if err != nil {
				return err
			}
			note, err := c.AuditCheckpoint(cmd.Context(), token)
			if err != nil {
				return err
			}
			if _, err := auditlog.ParseCheckpoint(note); err != nil {
				return fmt.Errorf("the broker's answer: %w", err)
			}
			_, err = io.WriteString(p.stdout, note)
			return err
		},
	}
}

func (p *program) auditExportCommand() *cobra.Command {
	var from int64
	var file string
	cmd := &cobra.Command{
		Use: "export", Short: "Write the audit log up to its last checkpoint, as JSON lines", Args: exactly(0, "none"),
		Long: `Write the audit log up to its last checkpoint, as JSON lines: what daypass audit verify reads. With --output FILE the file is there when all of it
is; one that was broken off is removed.`,
		Example: `  daypass audit export --output events.jsonl
  daypass audit export --from 120000 | daypass audit verify - --key audit.pub`,
	}
	cmd.Flags().Int64Var(&from, "from", 0, "number of the first event")
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write (default: standard output)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from < 0 {
			return usage("--from is a number from 0 on")
		}
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		e := &exporting{client: c, token: token}
		if file == "" {
			return e.write(cmd.Context(), p.stdout, from)
		}
		return e.writeFile(cmd.Context(), file, from)
	}
	return cmd
}

// exporting joins the parts of an export, of which the broker gives one at a time.
type exporting struct {
	client *client.Client
	token  string
}

func (e *exporting) writeFile(ctx context.Context, name string, from int64) (err error) {
	partial := name + ".partial"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the user names the file
	if err != nil {
		return fmt.Errorf("writing the export: %w", err)
	}
	if err := errors.Join(e.write(ctx, f, from), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return os.Rename(partial, name)
}

// write asks for part after part up to the checkpoint that was the last when it began;
// where there is none, until nothing more comes.
func (e *exporting) write(ctx context.Context, to io.Writer, from int64) error {
	out := bufio.NewWriterSize(to, 64<<10)
	end, err := e.lastSize(ctx)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		next, err := e.part(ctx, out, from, end, first)
		if err != nil {
			return err
		}
		nothing := next == from
		from = next
		if end >= 0 && from >= end || end < 0 && nothing {
			break
		}
		if nothing {
			return fmt.Errorf("exporting the audit log: the broker sent nothing behind number %d", from)
		}
	}
	line, err := (&auditlog.Line{End: &auditlog.End{Size: from}}).Encode()
	if err != nil {
		return err
	}
	if _, err := out.Write(line); err != nil {
		return fmt.Errorf("writing the export: %w", err)
	}
	return out.Flush()
}

// lastSize is how much of the log is signed; -1: nothing.
func (e *exporting) lastSize(ctx context.Context) (int64, error) {
	note, err := e.client.AuditCheckpoint(ctx, e.token)
	if isNotFound(err) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	c, err := auditlog.ParseCheckpoint(note)
	if err != nil {
		return 0, fmt.Errorf("the broker's last checkpoint: %w", err)
	}
	return c.Size, nil
}

// part copies one part, without its end, and without its header where it isn't the first.
func (e *exporting) part(ctx context.Context, out *bufio.Writer, from, end int64, first bool) (int64, error) {
	stream, err := e.client.ExportAudit(ctx, e.token, from, end)
	if err != nil {
		return 0, err
	}
	defer stream.Close() //nolint:errcheck // it was only read
	r := auditlog.NewReader(stream)
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			err = errors.New("the broker ended it before its last line: something failed there")
		}
		if err != nil {
			return 0, fmt.Errorf("exporting the audit log: %w", err)
		}
		if line.End != nil {
			if line.End.Size < from {
				return 0, errors.New("exporting the audit log: a part ends before it begins")
			}
			return line.End.Size, nil
		}
		if line.Header != nil && !first {
			continue
		}
		text, err := line.Encode()
		if err != nil {
			return 0, err
		}
		if _, err := out.Write(text); err != nil {
			return 0, fmt.Errorf("writing the export: %w", err)
		}
	}
}

func isNotFound(err error) bool {
	problem, ok := errors.AsType[*api.Problem](err)
	return ok && problem.Code == api.CodeNotFound
}
