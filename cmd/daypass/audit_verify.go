package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	auditlog "github.com/daypass/daypass/broker/audit/log"
)

// maxKeptFile bounds a file of keys or checkpoints: a year of checkpoints, one a minute.
const maxKeptFile = 256 << 20

func (p *program) auditVerifyCommand() *cobra.Command {
	var keyFiles, against []string
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Verify an export of the audit log, offline", Args: exactly(1, "FILE"),
		Long: `Verify an export of the audit log, offline: that every event's body has the hash that the log has, that no number is missing, that the hashes
give the roots that were signed, and that no subject lacks one of its events.

--key FILE holds the public keys that sign checkpoints (PEM, or what daypassd keys audit prints), and must come from elsewhere than the export.
--against FILE holds one or more checkpoints that were kept elsewhere: the log must begin with what they cover. Both may stand several times.

Exit codes: 0 all of it is signed by a given key; 1 something was changed, is missing, or doesn't fit; 2 usage; 4 self-consistent only: nothing
contradicts itself, and no given key vouches for all of it.`,
		Example: `  daypass audit verify events.jsonl --key audit.pub
  daypass audit verify events.jsonl --key audit.pub --against last-month.checkpoint
  daypass audit export | daypass audit verify - --key audit.pub`,
	}
	out := outputFlag(cmd)
	cmd.Flags().StringArrayVar(&keyFiles, "key", nil, "file of public keys that sign checkpoints")
	cmd.Flags().StringArrayVar(&against, "against", nil, "file of checkpoints that were kept elsewhere")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		proof, err := readProof(keyFiles, against)
		if err != nil {
			return err
		}
		export := io.Reader(p.stdin)
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return usage("reading the export: %w", err)
			}
			defer f.Close() //nolint:errcheck // opened for reading
			export = f
		}
		report, err := auditlog.Verify(export, proof)
		if err != nil {
			return fmt.Errorf("FAILED: %w", err)
		}
		if err := p.printReport(report, *out); err != nil {
			return err
		}
		if report.SelfConsistent() {
			return &exit{code: exitUnproven}
		}
		return nil
	}
	return cmd
}

func readProof(keyFiles, against []string) (auditlog.Proof, error) {
	var proof auditlog.Proof
	for _, name := range keyFiles {
		text, err := readKept(name)
		if err != nil {
			return proof, err
		}
		keys, err := auditlog.ParseKeys(text)
		if err != nil {
			return proof, usage("%s: %w", name, err)
		}
		proof.Keys = append(proof.Keys, keys...)
	}
	for _, name := range against {
		text, err := readKept(name)
		if err != nil {
			return proof, err
		}
		notes, err := auditlog.ReadCheckpoints(text)
		if err != nil {
			return proof, usage("%s: %w", name, err)
		}
		proof.Against = append(proof.Against, notes...)
	}
	return proof, nil
}

func readKept(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the user names the file
	if err != nil {
		return nil, usage("%w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	text, err := io.ReadAll(io.LimitReader(f, maxKeptFile+1))
	if err == nil && len(text) > maxKeptFile {
		err = errors.New("it is too large")
	}
	if err != nil {
		return nil, usage("reading %s: %w", name, err)
	}
	return text, nil
}

// verdict is a report as --output json prints it.
type verdict struct {
	Origin         string `json:"origin"`
	From           int64  `json:"from"`
	Size           int64  `json:"size"`
	Root           string `json:"root"`
	Verdict        string `json:"verdict"` // signed, or self-consistent only
	Signed         int64  `json:"signed"`
	Checkpoints    int    `json:"checkpoints"`
	OtherKeys      int    `json:"checkpoints_of_other_keys"`
	Compared       int    `json:"compared"`
	NotCompared    int    `json:"not_compared"`
	Open           int    `json:"open"`
	WithoutBody    int64  `json:"without_body"`
	WithoutBodyEnd int64  `json:"without_body_before"`
}

func (p *program) printReport(r *auditlog.Report, how output) error {
	v := verdict{
		Origin: r.Origin, From: r.From, Size: r.Size, Root: r.Root.String(), Verdict: "signed", Signed: r.Signed, Checkpoints: r.Checkpoints, OtherKeys: r.Foreign,
		Compared: r.Compared, NotCompared: r.TooOld, Open: r.Open, WithoutBody: r.Dropped, WithoutBodyEnd: r.DroppedTo,
	}
	if r.SelfConsistent() {
		v.Verdict = "self-consistent only"
	}
	if how == outputJSON {
		return p.printJSON(v)
	}
	return p.table(func(w io.Writer) {
		row(w, "log", r.Origin)
		row(w, "numbers", fmt.Sprintf("%d up to %d", r.From, r.Size-1))
		row(w, "root", v.Root)
		row(w, "checkpoints", fmt.Sprintf("%d, of which %d by keys that were not given", r.Checkpoints, r.Foreign))
		if r.Compared+r.TooOld > 0 {
			row(w, "kept elsewhere", fmt.Sprintf("%d checkpoints agree, %d are of before number %d and were not compared", r.Compared, r.TooOld, r.From))
		}
		if r.Open > 0 {
			row(w, "open", fmt.Sprintf("%d subjects lack an event before one of the last two minutes: a later export has to have it", r.Open))
		}
		if r.Dropped > 0 {
			row(w, "without body", fmt.Sprintf("%d events, all before number %d: their hashes are there", r.Dropped, r.DroppedTo))
		}
		if !r.SelfConsistent() {
			row(w, "verdict", "ok: all of it is signed by key "+r.SignedBy)
			return
		}
		row(w, "verdict", "self-consistent only: "+unproven(r))
	})
}

func unproven(r *auditlog.Report) string {
	if r.Signed == 0 {
		return "whoever has the database could have made all of it anew (hint: --key with a public key that you have from elsewhere)"
	}
	return fmt.Sprintf("a given key vouches for what is before number %d alone", r.Signed)
}
