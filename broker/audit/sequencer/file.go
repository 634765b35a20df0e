package sequencer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	auditlog "github.com/daypass/daypass/broker/audit/log"
)

// checkpointFile is where checkpoints go besides the database: somebody ships it
// elsewhere, and at the next start it says what the log was.
type checkpointFile struct {
	f *os.File
}

// maxTail is how much of the file's end is read for its last checkpoint.
const maxTail = 64 << 10

// openFile opens or makes the file and reads its last checkpoint. What a crash
// left half-written at its end is cut off: it was never whole.
func openFile(path string) (*checkpointFile, *auditlog.Checkpoint, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, nil, fmt.Errorf("opening the checkpoint file: %w", err)
	}
	last, err := lastOf(f)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading the checkpoint file %s: %w (hint: it is evidence; move it away, and keep it)", path, err), f.Close())
	}
	return &checkpointFile{f: f}, last, nil
}

func lastOf(f *os.File) (*auditlog.Checkpoint, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	begin := max(info.Size()-maxTail, 0)
	tail, err := io.ReadAll(io.NewSectionReader(f, begin, info.Size()-begin))
	if err != nil {
		return nil, err
	}
	text := string(tail)
	if begin > 0 { // not in the middle of one
		_, text, _ = strings.Cut(text, "\n\n"+auditlog.Origin(""))
		text = auditlog.Origin("") + text
	}
	whole := endOfLast(text)
	if whole == 0 && (begin > 0 || !strings.HasPrefix(text, auditlog.Origin("")) && !strings.HasPrefix(auditlog.Origin(""), text)) {
		return nil, auditlog.ErrNoCheckpoint // something else's file
	}
	if cut := len(text) - whole; cut > 0 {
		if err := f.Truncate(info.Size() - int64(cut)); err != nil {
			return nil, err
		}
	}
	if whole == 0 {
		return nil, nil
	}
	notes, err := auditlog.ReadCheckpoints([]byte(text[:whole]))
	if err != nil {
		return nil, err
	}
	return auditlog.ParseCheckpoint(notes[len(notes)-1])
}

// endOfLast is behind the last whole note: a blank line that follows on a
// signature, and not on the text that is signed.
func endOfLast(text string) int {
	for end := len(text); ; {
		end = strings.LastIndex(text[:end], "\n\n")
		if end < 0 {
			return 0
		}
		if strings.HasPrefix(text[strings.LastIndexByte(text[:end], '\n')+1:], "\u2014 ") {
			return end + 2
		}
	}
}

// append writes a note so that it is there after a crash.
func (c *checkpointFile) append(note string) error {
	if _, err := c.f.WriteString(note + "\n"); err != nil {
		return err
	}
	return c.f.Sync()
}

// Close closes the file.
func (c *checkpointFile) Close() error { return c.f.Close() }
