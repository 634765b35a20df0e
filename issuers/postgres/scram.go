package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/daypass/daypass/issuers"
)

const saltLength = 16

// verifier makes what PostgreSQL keeps of a password (RFC 5802, section 3; RFC
// 7677), so that the password itself never travels to the server, and stands in
// no log of it. Generated passwords are ASCII: SASLprep leaves them as they are.
func verifier(password issuers.Secret, iterations int) (string, error) {
	salt := make([]byte, saltLength)
	rand.Read(salt) // never fails: since Go 1.24 it ends the program instead
	return verifierWithSalt(password, iterations, salt)
}

func verifierWithSalt(password issuers.Secret, iterations int, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving a SCRAM verifier: %w", err)
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return "SCRAM-SHA-256$" + strconv.Itoa(iterations) + ":" + encode(salt) + "$" + encode(stored[:]) + ":" + encode(mac(salted, "Server Key")), nil
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
