package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/issuers"
)

// RaiseEpoch implements [issuers.EpochKeeper].
func (i *Issuer) RaiseEpoch(ctx context.Context) (highest int64, err error) {
	err = i.home.QueryRow(ctx, i.sql.raise, i.config.Installation, i.config.Epoch).Scan(&highest)
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code == "42883" { // undefined_function
		return 0, errorf(issuers.ErrNoEpoch, "the functions on the target are older than the epoch\nhint: run what \"daypassd target setup postgres\" prints on this target")
	}
	return highest, classify(ctx, "raising the epoch", err)
}
