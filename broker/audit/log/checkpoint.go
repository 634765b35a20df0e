package log

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint says what a log's first events are: how many, and the root over them.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   Hash
}

// Text is what is signed (C2SP tlog-checkpoint): origin, size, and the root in base64, a line each.
func (c *Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Sign makes a checkpoint's signed note.
func (c *Checkpoint) Sign(ctx context.Context, signer Signer) (string, error) {
	key, err := NewKey(c.Origin, signer.Public())
	if err != nil {
		return "", err
	}
	text, err := note.Sign(&note.Note{Text: c.Text()}, newNoteSigner(ctx, key, signer))
	if err != nil {
		return "", fmt.Errorf("signing a checkpoint: %w", err)
	}
	return string(text), nil
}

const maxNote = 16 << 10

var (
	// ErrNoCheckpoint says that a text is no checkpoint of an audit log.
	ErrNoCheckpoint = errors.New("no checkpoint of an audit log")
	// ErrUnknownKey says that none of the keys at hand signed a checkpoint.
	ErrUnknownKey = errors.New("the checkpoint is signed by none of the given keys")
	// ErrSignature says that a checkpoint names a key that did not sign it.
	ErrSignature = errors.New("the checkpoint's signature is not of the key that it names")
)

// ParseCheckpoint reads a checkpoint's note without verifying its signatures.
func ParseCheckpoint(text string) (*Checkpoint, error) {
	if len(text) > maxNote {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrNoCheckpoint, maxNote)
	}
	// note.Open knows the form; without a key at hand it says that it knows none.
	_, err := note.Open([]byte(text), note.VerifierList())
	unverified, formed := errors.AsType[*note.UnverifiedNoteError](err)
	if !formed {
		return nil, fmt.Errorf("%w: it is no signed note", ErrNoCheckpoint)
	}
	lines := strings.Split(unverified.Note.Text, "\n")
	if len(lines) < 4 || installationOf(lines[0]) == "" {
		return nil, fmt.Errorf("%w: its first line is not daypass-audit/INSTALLATION", ErrNoCheckpoint)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > MaxSize || strconv.FormatInt(size, 10) != lines[1] {
		return nil, fmt.Errorf("%w: its second line is not the size of a log", ErrNoCheckpoint)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(Hash{}) || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return nil, fmt.Errorf("%w: its third line is not a root", ErrNoCheckpoint)
	}
	return &Checkpoint{Origin: lines[0], Size: size, Root: Hash(root)}, nil
}

// Open reads a checkpoint's note and verifies that one of the keys signed it. A
// signature of one of them that doesn't fit is an error, whatever else stands there.
// It returns the checkpoint also with ErrUnknownKey and ErrSignature.
func Open(text string, keys []*Key) (*Checkpoint, *Key, error) {
	c, err := ParseCheckpoint(text)
	if err != nil {
		return nil, nil, err
	}
	var known []note.Verifier
	for _, k := range keys {
		of, err := k.For(c.Origin)
		if err != nil {
			return c, nil, err
		}
		known = append(known, verifier{of})
	}
	opened, err := note.Open([]byte(text), firstOf(known))
	_, unknown := errors.AsType[*note.UnverifiedNoteError](err)
	switch {
	case unknown:
		return c, nil, ErrUnknownKey
	case err != nil:
		return c, nil, ErrSignature
	}
	for _, v := range known {
		if v.Name() == opened.Sigs[0].Name && v.KeyHash() == opened.Sigs[0].Hash {
			return c, v.(verifier).Key, nil
		}
	}
	return c, nil, ErrUnknownKey // not reached
}

// firstOf is note.VerifierList where a key may stand twice.
type firstOf []note.Verifier

// Verifier implements note.Verifiers.
func (f firstOf) Verifier(name string, hash uint32) (note.Verifier, error) {
	for _, v := range f {
		if v.Name() == name && v.KeyHash() == hash {
			return v, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// ReadCheckpoints reads a file of notes, one after the other, with or without
// blank lines between them: what a broker appends to, or one that was kept. What
// stands there after the last whole note was cut off while it was written, and is
// left out if there is at least one.
func ReadCheckpoints(text []byte) ([]string, error) {
	var notes []string
	const mark = "\n\n\u2014 "
	for rest := bytes.TrimLeft(text, "\n"); len(rest) > 0; rest = bytes.TrimLeft(rest, "\n") {
		signatures := bytes.Index(rest, []byte(mark))
		end := -1
		if signatures >= 0 {
			end = signatures + len("\n\n")
			for bytes.HasPrefix(rest[end:], []byte("\u2014 ")) {
				line := bytes.IndexByte(rest[end:], '\n')
				if line < 0 {
					end = -1
					break
				}
				end += line + 1
			}
		}
		if end < 0 {
			if len(notes) > 0 && len(rest) < maxNote {
				return notes, nil
			}
			return nil, fmt.Errorf("%w: checkpoint %d is not whole", ErrNoCheckpoint, len(notes)+1)
		}
		if _, err := ParseCheckpoint(string(rest[:end])); err != nil {
			return nil, fmt.Errorf("checkpoint %d: %w", len(notes)+1, err)
		}
		notes = append(notes, string(rest[:end]))
		rest = rest[end:]
	}
	if len(notes) == 0 {
		return nil, fmt.Errorf("%w: there is none in it", ErrNoCheckpoint)
	}
	return notes, nil
}
