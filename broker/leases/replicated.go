package leases

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	waitForStandby = "SyncRepWaitForLSN" // the server's routine that waits for a synchronous standby
	unreplicated   = "a commit did not reach the synchronous standby: somebody cancelled its wait"

	// transactionUnknown is the SQLSTATE of a transaction of which nobody knows
	// whether it was committed (transaction_resolution_unknown).
	transactionUnknown = "08007"

	// maxNotice bounds what is held of a message from the server. No warning is longer.
	maxNotice = 4 << 10
	header    = 5 // of a message: its type and its length
)

// commits reads what a server says, and makes an error of a warning that it gives
// with a commit: that somebody cancelled the commit's wait for the synchronous
// standby (pg_cancel_backend, or a client that gave up). The server calls it a
// success, and a failover would lose it, so it is no commit that anybody may hear
// of. Here it reaches all who commit on a connection, in whatever way: an error
// and a warning have one form, but for the first byte.
type commits struct {
	from *bufio.Reader
	left int // of the message that is being passed on
}

func newCommits(from io.Reader) *commits { return &commits{from: bufio.NewReaderSize(from, maxNotice)} }

// Read implements io.Reader.
func (c *commits) Read(p []byte) (int, error) {
	if c.left == 0 {
		if err := c.begin(); err != nil {
			return 0, err
		}
	}
	n, err := c.from.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// begin looks at the next message.
func (c *commits) begin() error {
	start, err := c.from.Peek(header)
	if err != nil {
		if errors.Is(err, io.EOF) && len(start) > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	length := 1 + int64(binary.BigEndian.Uint32(start[1:]))
	c.left = int(max(length, header)) // a shorter one is refused by who reads it
	if start[0] != 'N' || c.left > maxNotice {
		return nil
	}
	message, err := c.from.Peek(c.left)
	if err == nil && bytes.Contains(message, []byte("\x00R"+waitForStandby+"\x00")) {
		message[0] = 'E' // in the reader's own buffer
	}
	return nil // what is missing is told to who reads it
}

// confirmed makes an error of each commit on a connection that didn't reach the
// synchronous standby.
func confirmed(c *pgconn.Config) {
	build := c.BuildFrontend
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend { return build(newCommits(r), w) }
	before := c.OnPgError
	c.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		if err.Routine == waitForStandby { // messages are translated; this is not
			// As if the connection had been lost while it waited: that it ends makes it so.
			err.Severity, err.SeverityUnlocalized, err.Code, err.Message = "FATAL", "FATAL", transactionUnknown, unreplicated
			return false
		}
		return before == nil || before(conn, err)
	}
}
