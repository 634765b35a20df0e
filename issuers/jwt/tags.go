package jwt

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// What AWS STS reads of a web identity token (IAM User Guide, "Passing session
// tags using AssumeRoleWithWebIdentity"; STS API Reference, Tag and SourceIdentity).
const (
	awsClaims         = "https://aws.amazon.com/"
	awsTags           = awsClaims + "tags"
	awsSourceIdentity = awsClaims + "source_identity"

	maxTags     = 50
	maxTagKey   = 128 // characters
	maxTagValue = 256
	// sourceIdentity: 2 to 64 characters.
	minSourceIdentity = 2
	maxSourceIdentity = 64

	reservedTag = "aws:" // how no key begins, in any case
)

var (
	tagPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
	})
	sourceIdentityPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]*$`)
	})
)

// checkTags takes one shape alone, the only object that a claim may be:
//
//	{principal_tags: {Project: [payments]}, transitive_tag_keys: [Project]}
func (r claimRules) checkTags(v any) error {
	object, ok := v.(map[string]any)
	if !ok {
		return errors.New("write {principal_tags: {NAME: [value]}, transitive_tag_keys: [NAME]}")
	}
	for name := range object {
		if name != "principal_tags" && name != "transitive_tag_keys" {
			return fmt.Errorf("there is no %q: principal_tags and transitive_tag_keys are what there is", name)
		}
	}
	tags, ok := object["principal_tags"].(map[string]any)
	if !ok || len(tags) == 0 || len(tags) > maxTags {
		return fmt.Errorf("principal_tags: 1 to %d tags are needed, as {NAME: [value]}", maxTags)
	}
	folded := make(map[string]bool, len(tags))
	for key, value := range tags {
		if err := checkTagKey(key); err != nil {
			return err
		}
		if folded[strings.ToLower(key)] {
			return fmt.Errorf("tag %q stands twice: AWS doesn't tell capital letters from small ones", key)
		}
		folded[strings.ToLower(key)] = true
		if err := r.checkTagValue(key, value); err != nil {
			return err
		}
	}
	transitive, found := object["transitive_tag_keys"]
	if !found {
		return nil
	}
	keys, ok := transitive.([]any)
	if !ok || len(keys) == 0 || len(keys) > maxTags {
		return errors.New("transitive_tag_keys: a list of names of principal_tags is needed")
	}
	for i, key := range keys {
		name, ok := key.(string)
		if _, known := tags[name]; !ok || !known || slices.Contains(keys[:i], key) {
			return fmt.Errorf("transitive_tag_keys: %v is none of principal_tags, or stands twice", key)
		}
	}
	return nil
}

func checkTagKey(key string) error {
	if n := utf8.RuneCountInString(key); n < 1 || n > maxTagKey || !tagPattern().MatchString(key) {
		return fmt.Errorf("tag %.60q: a name has 1 to %d letters, digits, blanks and _.:/=+-@", key, maxTagKey)
	}
	if strings.HasPrefix(strings.ToLower(key), reservedTag) {
		return fmt.Errorf("tag %q: names that begin with %s are Amazon's", key, reservedTag)
	}
	return nil
}

func (r claimRules) checkTagValue(key string, value any) error {
	list, ok := value.([]any)
	if !ok || len(list) != 1 {
		return fmt.Errorf("tag %q: a list of one text is needed, as in {%s: [value]}", key, key)
	}
	text, ok := list[0].(string)
	if !ok {
		return fmt.Errorf("tag %q: a list of one text is needed, as in {%s: [value]}", key, key)
	}
	if r.templates && hasTemplate(text) {
		return nil
	}
	if utf8.RuneCountInString(text) > maxTagValue || !tagPattern().MatchString(text) {
		return fmt.Errorf("tag %q: a value has at most %d letters, digits, blanks and _.:/=+-@", key, maxTagValue)
	}
	return nil
}

func (r claimRules) checkSourceIdentity(v any) error {
	text, ok := v.(string)
	if !ok {
		return errors.New("a text is needed")
	}
	if r.templates && hasTemplate(text) {
		return nil
	}
	if len(text) < minSourceIdentity || len(text) > maxSourceIdentity || !sourceIdentityPattern().MatchString(text) {
		return fmt.Errorf("%d to %d letters, digits and _+=,.@- are needed", minSourceIdentity, maxSourceIdentity)
	}
	return nil
}
