package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker/api/openapi"
)

// openAPI serves GET /openapi.json, open to everybody: it says nothing of this
// broker, and is the same for all of a version. Its tag is its hash, so that who
// asks again is told in a few bytes that nothing changed.
func openAPI() echo.HandlerFunc {
	document := openapi.Published()
	hash := sha256.Sum256([]byte(document))
	tag := `"` + hex.EncodeToString(hash[:16]) + `"`
	return func(c echo.Context) error {
		header := c.Response().Header()
		header.Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
		header.Set(echo.HeaderCacheControl, "public, max-age=3600")
		header.Set("ETag", tag)
		header.Set(echo.HeaderXContentTypeOptions, "nosniff")
		http.ServeContent(c.Response(), c.Request(), "", time.Time{}, strings.NewReader(document))
		return nil
	}
}
