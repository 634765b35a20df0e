package openapi

import _ "embed"

//go:embed openapi.json
var document string

// Published is the document as it was made of this version's code, for whoever
// serves it.
func Published() string { return document }
