package redact

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Handler gives a slog handler that masks records and passes them to next: their
// messages, the keys and values of attributes and groups, and errors. A value that
// is no text is looked at as text and as JSON, and becomes the masked text if there
// is a secret in it; any other stays as it is.
//
// It sees a record before it is written, so a secret that only the writing makes
// (an attribute's JSON in base64, say) is for a [Writer] beneath the handler.
func (m *Masker) Handler(next slog.Handler) slog.Handler { return &handler{m, next} }

type handler struct {
	m    *Masker
	next slog.Handler
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	masked := slog.NewRecord(record.Time, record.Level, h.m.String(record.Message), record.PC)
	record.Attrs(func(a slog.Attr) bool {
		masked.AddAttrs(h.m.attr(a))
		return true
	})
	return h.next.Handle(ctx, masked)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.m, h.next.WithAttrs(h.m.attrs(attrs))}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.m, h.next.WithGroup(h.m.String(name))}
}

func (m *Masker) attrs(attrs []slog.Attr) []slog.Attr {
	masked := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		masked[i] = m.attr(a)
	}
	return masked
}

func (m *Masker) attr(a slog.Attr) slog.Attr {
	return slog.Attr{Key: m.String(a.Key), Value: m.value(a.Value)}
}

func (m *Masker) value(v slog.Value) slog.Value {
	switch v = v.Resolve(); v.Kind() {
	case slog.KindGroup:
		return slog.GroupValue(m.attrs(v.Group())...)
	case slog.KindAny:
		return m.anything(v)
	default:
		return m.text(v, v.String())
	}
}

// text gives v, or what is left of its text.
func (m *Masker) text(v slog.Value, text string) slog.Value {
	if masked := m.String(text); masked != text {
		return slog.StringValue(masked)
	}
	return v
}

// anything looks at a value the ways in which handlers write it.
func (m *Masker) anything(v slog.Value) slog.Value {
	written := v.Any()
	if err, ok := written.(error); ok {
		return m.text(v, err.Error())
	}
	if b, ok := written.([]byte); ok {
		return m.text(v, string(b))
	}
	text := fmt.Sprintf("%+v", written)
	if masked := m.String(text); masked != text {
		return slog.StringValue(masked)
	}
	encoded, err := json.Marshal(written)
	if err == nil && m.String(string(encoded)) != string(encoded) {
		return slog.StringValue(m.String(string(encoded)))
	}
	return v
}
