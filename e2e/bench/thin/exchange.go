package main

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker/keys"
)

type exchanger struct {
	verifier *gooidc.IDTokenVerifier
	allowed  cel.Program
	signer   keys.Signer
	journal  *journal
}

func (x *exchanger) routes() http.Handler {
	e := echo.New()
	e.POST("/exchange", x.exchange)
	return e
}

const life = 15 * time.Minute

type request struct {
	Grants []string `json:"grants"`
}

type answer struct {
	LeaseID   string    `json:"lease_id"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (x *exchanger) exchange(c echo.Context) error {
	var asked request
	if err := c.Bind(&asked); err != nil || len(asked.Grants) != 1 {
		return echo.NewHTTPError(http.StatusBadRequest, "ask for one grant")
	}
	raw, ok := strings.CutPrefix(c.Request().Header.Get(echo.HeaderAuthorization), "Bearer ")
	if !ok {
		return echo.ErrUnauthorized
	}
	ctx := c.Request().Context()
	token, err := x.verifier.Verify(ctx, raw)
	if err != nil {
		return echo.NewHTTPError(http.StatusUnauthorized).SetInternal(err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return err
	}
	verdict, _, err := x.allowed.Eval(map[string]any{"claims": claims})
	if err != nil || verdict.Value() != true {
		return echo.ErrForbidden
	}
	now := time.Now().UTC()
	l := &lease{id: rand.Text(), grant: asked.Grants[0], subject: token.Subject, digest: sha256.Sum256([]byte(raw)), issuedAt: now, expiresAt: now.Add(life)}
	signed, err := x.sign(l)
	if err != nil {
		return err
	}
	if err := x.journal.keep(ctx, l); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, answer{LeaseID: l.id, Token: signed, ExpiresAt: l.expiresAt})
}

// sign makes a compact JWS (RFC 7515 §7.1) with ES256.
func (x *exchanger) sign(l *lease) (string, error) {
	head := `{"alg":"ES256","kid":"` + x.signer.KeyID() + `","typ":"at+jwt"}`
	payload, err := json.Marshal(map[string]any{
		"iss": "https://daypass.example.com", "sub": "daypass:main/" + l.grant, "aud": "https://releases.example.com",
		"iat": l.issuedAt.Unix(), "exp": l.expiresAt.Unix(), "jti": l.id,
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(head)) + "." + encode(payload)
	digest := sha256.Sum256([]byte(text))
	der, err := x.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	var points struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &points); err != nil || len(rest) > 0 {
		return "", errors.New("the key's signature is malformed")
	}
	var signature [64]byte
	points.R.FillBytes(signature[:32])
	points.S.FillBytes(signature[32:])
	return text + "." + encode(signature[:]), nil
}
