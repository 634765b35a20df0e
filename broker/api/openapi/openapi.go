// Package openapi makes the OpenAPI 3.1 document of the native API: paths and who
// may call them from one table ([Operations]), schemas from the wire types of
// broker/api by reflection, and their descriptions from the comments that stand
// above them in its source.
//
// openapi.json beside this file is what it makes, which brokers serve ([Published]),
// and a test keeps both the same:
//
//	go test ./broker/api/openapi -run TestDocument -update
//
// Another test compares the table with the routes of broker/httpapi, both ways.
package openapi

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

type object = map[string]any

// Document makes the document. Source is the folder of package api, for its comments.
func Document(source string) ([]byte, error) {
	comments, err := readComments(source)
	if err != nil {
		return nil, err
	}
	s := &schemas{comments: comments, made: object{}}
	paths := object{}
	for _, o := range Operations() {
		path, _ := paths[o.Path].(object)
		if path == nil {
			path = object{}
			paths[o.Path] = path
		}
		path[strings.ToLower(o.Method)] = s.operation(&o)
	}
	problem := s.of(api.Problem{})
	document := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Daypass", "version": "v1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "The native API of a Daypass broker. It gives a CI job's OIDC token for credentials that live for minutes, and takes them back.\n\n" +
				"Errors are RFC 9457 problems with a stable `code`. Every answer has an `X-Request-Id`. After a 429, 502 or 503 nothing was delivered, " +
				"nothing stays alive, and the same request may be sent again.",
		},
		"servers": []any{object{"url": "https://{broker}", "variables": object{"broker": object{"default": "daypass.example.com"}}}},
		"paths":   paths,
		"components": object{
			"schemas": s.made,
			"responses": object{"Problem": object{
				"description": "What was refused, and why.",
				"content":     object{api.ProblemType: object{"schema": problem}},
				"headers": object{
					"X-Request-Id": object{"schema": object{"type": "string"}, "description": "By which the broker's log and decisions know the request."},
					"Retry-After":  object{"schema": object{"type": "integer"}, "description": "Of 429 and 503: seconds to wait."},
				},
			}},
			"securitySchemes": object{
				string(Job): bearer("A CI job's OIDC token, signed by its provider."),
				string(Session): bearer("A session token (`dps_…`), from the answer of an exchange. One that is bound to a key comes as `Authorization: DPoP TOKEN`, with a proof in the header DPoP (RFC 9449); " +
					"to revoke its session it may come as a bearer's."),
				string(Revocation): bearer("A revocation token (`dpr_…`), from the answer of an exchange: it gives back what its session token obtained, and is good for nothing else."),
				string(Admin):      bearer("An admin token (`dpa_…`) of the role viewer, operator or approver that the call says."),
			},
		},
	}
	out, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the document: %w", err)
	}
	return append(out, '\n'), nil
}

func bearer(description string) object {
	return object{"type": "http", "scheme": "bearer", "description": description}
}

// operation describes one call.
func (s *schemas) operation(o *Operation) object {
	description := o.Description
	if o.Role != "" {
		description = strings.TrimSpace(description + " An admin needs the role " + o.Role + ".")
	}
	described := object{"operationId": o.ID, "summary": o.Summary, "responses": s.responses(o)}
	if description != "" {
		described["description"] = description
	}
	security := []any{}
	for _, who := range o.Who {
		security = append(security, object{string(who): []any{}})
	}
	described["security"] = security
	if parameters := o.parameters(); len(parameters) > 0 {
		described["parameters"] = parameters
	}
	switch {
	case o.Body != nil:
		described["requestBody"] = object{"required": !o.BodyOptional, "content": object{"application/json": object{"schema": s.of(o.Body)}}}
	case o.BodyType != "":
		described["requestBody"] = object{"required": true, "content": object{o.BodyType: object{"schema": object{"type": "string"}}}}
	}
	return described
}

func (s *schemas) responses(o *Operation) object {
	responses := object{"default": object{"$ref": "#/components/responses/Problem"}}
	for _, status := range o.statuses() {
		answer := object{"description": map[int]string{200: "Done.", 202: "It goes on without the caller.", 503: "Not ready."}[status]}
		content := object{}
		switch {
		case o.Or != nil:
			content["application/json"] = object{"schema": object{"oneOf": []any{s.of(o.Answer), s.of(o.Or)}}}
		case o.Answer != nil:
			content["application/json"] = object{"schema": s.of(o.Answer)}
		}
		for _, kind := range o.AnswerTypes {
			content[kind] = object{"schema": object{"type": "string"}}
		}
		if len(content) > 0 {
			answer["content"] = content
		}
		responses[strconv.Itoa(status)] = answer
	}
	return responses
}

func (o *Operation) statuses() []int {
	if len(o.Statuses) == 0 {
		return []int{200}
	}
	return o.Statuses
}

// parameters are those in the path, in the order in which they stand there, and
// then those of query and header.
func (o *Operation) parameters() (list []any) {
	for part := range strings.SplitSeq(o.Path, "/") {
		name, is := strings.CutPrefix(part, "{")
		if !is {
			continue
		}
		name, _, _ = strings.Cut(name, "}")
		list = append(list, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}, "description": pathParameters()[name]})
	}
	for _, p := range o.Parameters {
		described := object{"name": p.Name, "in": "query", "schema": p.schema(), "description": p.Description}
		if p.Header {
			described["in"] = "header"
		}
		list = append(list, described)
	}
	return list
}

func (p Parameter) schema() object {
	switch {
	case p.Many:
		return object{"type": "array", "items": object{"type": "string"}}
	case len(p.Enum) > 0:
		return object{"type": "string", "enum": p.Enum}
	case p.Number:
		return object{"type": "integer"}
	}
	return object{"type": "string"}
}
