package httpapi

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/issuers"
)

const (
	// nameQuestions is where an issuer that is a Responder answers, below its own path.
	nameQuestions = "ocsp"
	// maxQuestion bounds a question: a request about one certificate has some
	// hundred bytes.
	maxQuestion = 4 << 10
)

// document serves GET /v1/issuers/{name}/{document}: open to everybody.
func (s *Server) document(c echo.Context) error {
	document, err := s.config.Broker.Publish(c.Request().Context(), c.Param("issuer"), c.Param("document"))
	if err != nil {
		return err
	}
	return serveDocument(c, document)
}

func serveDocument(c echo.Context, document *issuers.Document) error {
	caching := "no-store"
	if document.MaxAge >= time.Second {
		caching = fmt.Sprintf("public, max-age=%d", int(document.MaxAge/time.Second))
	}
	c.Response().Header().Set(echo.HeaderCacheControl, caching)
	c.Response().Header().Set(echo.HeaderXContentTypeOptions, "nosniff")
	return c.Blob(http.StatusOK, document.Type, document.Body)
}

// askInBody serves POST /v1/issuers/{name}/ocsp (RFC 6960, appendix A.1).
func (s *Server) askInBody(c echo.Context) error {
	question, err := io.ReadAll(io.LimitReader(c.Request().Body, maxQuestion+1))
	if err != nil {
		return &broker.RequestError{Detail: "the body could not be read to its end"}
	}
	if len(question) > maxQuestion {
		return errTooLarge
	}
	return s.respond(c, question, c.Request().Header.Get(echo.HeaderContentType))
}

// askInPath serves GET /v1/issuers/{name}/ocsp/{base64 of the request}.
func (s *Server) askInPath(c echo.Context) error {
	text, err := url.PathUnescape(c.Param("*"))
	if err != nil || len(text) > 2*maxQuestion {
		return &broker.RequestError{Detail: "the path holds no request in base64"}
	}
	question, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, " ", "+"))
	if err != nil {
		return &broker.RequestError{Detail: "the path holds no request in base64"}
	}
	return s.respond(c, question, "")
}

func (s *Server) respond(c echo.Context, question []byte, kind string) error {
	document, err := s.config.Broker.Respond(c.Request().Context(), c.Param("issuer"), kind, question)
	if err != nil {
		return err
	}
	return serveDocument(c, document)
}

func (s *Server) publish(e *echo.Echo) {
	e.GET(api.PathIssuers+"/:issuer/:document", s.document)
	e.POST(api.PathIssuers+"/:issuer/"+nameQuestions, s.askInBody)
	e.GET(api.PathIssuers+"/:issuer/"+nameQuestions+"/*", s.askInPath)
}
