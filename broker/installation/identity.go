package installation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrCopy says that this database is a copy of the one that it was born as.
var ErrCopy = errors.New("this database is a copy")

// ErrChanged says that another database stands where the broker's was.
var ErrChanged = errors.New("this is not the database that the broker began with")

// What raised an epoch.
const (
	Promoted = "promoted"         // the same installation goes on here
	Anew     = "new installation" // the original goes on elsewhere, and this is another one
)

// Identity is who an installation is, as its database says.
type Identity struct {
	ID string // in all names that are made on targets
	// Copy says that the database isn't the one that it was born as.
	Copy bool
	// Epoch is raised by whoever takes over, and the targets remember it. Zero:
	// nobody ever did.
	Epoch int64
	Since time.Time // sessions and tokens from before it are void; zero: none is
	Why   string    // Promoted, Anew; "" with Epoch zero
	// Timeline of the server now, and as a broker saw it last (zero: none has).
	// It rises at a failover too, so it says that somebody should know, and refuses
	// nothing.
	Timeline, SeenTimeline int64
}

// NeedsSigningKey says that the installation let go of another one's signing keys
// and has none of its own yet.
func NeedsSigningKey(ctx context.Context, conn Querier) (bool, error) {
	const none = `SELECT i.epoch_why = $1 AND NOT EXISTS (SELECT FROM signing_keys) FROM installation i`
	var needed bool
	if err := conn.QueryRow(ctx, none, Anew).Scan(&needed); err != nil {
		return false, fmt.Errorf("reading installation: %w", err)
	}
	return needed, nil
}

// NewID makes an id up: 12 characters, as the first migration does.
func NewID() string {
	random := make([]byte, 6)
	_, _ = rand.Read(random) // it doesn't fail: crypto/rand crashes the program instead
	return hex.EncodeToString(random)
}

// Querier is a connection or a pool.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const identify = `
SELECT i.id,
    i.system_identifier <> (SELECT system_identifier::text FROM pg_control_system())
    OR i.database_oid <> (SELECT oid::text FROM pg_database WHERE datname = current_database()),
    i.epoch, i.epoch_at, i.epoch_why, (SELECT timeline_id FROM pg_control_checkpoint()), i.timeline
FROM installation i`

// Read reads who the installation is, a copy's too.
func Read(ctx context.Context, conn Querier) (*Identity, error) {
	var i Identity
	var since *time.Time
	if err := conn.QueryRow(ctx, identify).Scan(&i.ID, &i.Copy, &i.Epoch, &since, &i.Why, &i.Timeline, &i.SeenTimeline); err != nil {
		return nil, fmt.Errorf("reading installation: %w", err)
	}
	if since != nil {
		i.Since = since.UTC()
	}
	return &i, nil
}

// Original reads who the installation is. It returns ErrCopy for a copy.
func Original(ctx context.Context, conn Querier) (*Identity, error) {
	i, err := Read(ctx, conn)
	if err != nil {
		return nil, err
	}
	if i.Copy {
		return nil, fmt.Errorf("%w of installation %s: it was dumped, restored or cloned, so the credentials on the targets belong to the original, and nothing is issued or revoked from here "+
			"(hint: point `database` at the original; if that one is gone for good and this one takes its place, run `daypassd restore --promote`; if it lives on and this one is to be another installation, "+
			"run `daypassd restore --new-installation`)", ErrCopy, i.ID)
	}
	return i, nil
}

// Check reads the installation's id. It returns ErrCopy for a copy.
func Check(ctx context.Context, conn Querier) (id string, err error) {
	i, err := Original(ctx, conn)
	if err != nil {
		return "", err
	}
	return i.ID, nil
}

// Guard makes every new connection of a pool prove that it leads to the original
// database, and to the same one as the first connection did: so a copy put in its
// place under a running broker (a changed DNS entry, a restored server) is noticed,
// and so is one that was promoted there.
func Guard(config *pgxpool.Config) {
	type who struct {
		id    string
		epoch int64
	}
	var first atomic.Pointer[who]
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		i, err := Original(ctx, conn)
		if err != nil {
			return err
		}
		now := who{i.ID, i.Epoch}
		first.CompareAndSwap(nil, &now)
		if began := *first.Load(); began != now {
			return fmt.Errorf("%w: that was installation %s in epoch %d, and this is %s in epoch %d (hint: start the broker again, if that is what it is to use)", ErrChanged, began.id, began.epoch, now.id, now.epoch)
		}
		return nil
	}
}

// SawTimeline writes down which timeline the server is on. It returns true where
// it rose since a broker last looked: a standby took over, or a backup was
// restored to a point in time, which the server can't tell apart.
func SawTimeline(ctx context.Context, pool *pgxpool.Pool, i *Identity) (rose bool, err error) {
	if i.Timeline <= i.SeenTimeline {
		return false, nil
	}
	if _, err := pool.Exec(ctx, `UPDATE installation SET timeline = $1 WHERE timeline < $1`, i.Timeline); err != nil {
		return false, fmt.Errorf("writing down the server's timeline: %w", err)
	}
	return i.SeenTimeline > 0, nil
}
