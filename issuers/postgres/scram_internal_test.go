package postgres

import (
	"encoding/base64"
	"testing"

	"github.com/daypass/daypass/issuers"
)

// The example of RFC 7677, section 3, in PostgreSQL's form.
func TestVerifierOfTheRFC(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	got, err := verifierWithSalt(issuers.NewSecret("pencil"), 4096, salt)
	if err != nil {
		t.Fatal(err)
	}
	if want := "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestQuoteText(t *testing.T) {
	if got := quoteText(`it's \here`); got != `E'it''s \\here'` {
		t.Error(got)
	}
}
