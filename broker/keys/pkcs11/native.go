package pkcs11

import p11 "github.com/miekg/pkcs11"

// native is what a Token asks of the module while it is in use: *p11.Ctx, and
// nothing else but in tests, which put faults in between that SoftHSM doesn't have.
type native interface {
	slotCalls
	sessionCalls
	searchCalls
	makingCalls
	signingCalls
	sealingCalls
}

type slotCalls interface {
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (p11.TokenInfo, error)
	GetMechanismList(slot uint) ([]*p11.Mechanism, error)
}

type sessionCalls interface {
	OpenSession(slot, flags uint) (p11.SessionHandle, error)
	CloseSession(s p11.SessionHandle) error
	GetSessionInfo(s p11.SessionHandle) (p11.SessionInfo, error)
	Login(s p11.SessionHandle, user uint, pin string) error
}

type searchCalls interface {
	FindObjectsInit(s p11.SessionHandle, template []*p11.Attribute) error
	FindObjects(s p11.SessionHandle, most int) ([]p11.ObjectHandle, bool, error)
	FindObjectsFinal(s p11.SessionHandle) error
	GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, template []*p11.Attribute) ([]*p11.Attribute, error)
}

type makingCalls interface {
	GenerateKey(s p11.SessionHandle, m []*p11.Mechanism, template []*p11.Attribute) (p11.ObjectHandle, error)
	GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error)
	DestroyObject(s p11.SessionHandle, o p11.ObjectHandle) error
}

type signingCalls interface {
	SignInit(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle) error
	Sign(s p11.SessionHandle, data []byte) ([]byte, error)
}

type sealingCalls interface {
	EncryptInit(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle) error
	Encrypt(s p11.SessionHandle, plaintext []byte) ([]byte, error)
	DecryptInit(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle) error
	Decrypt(s p11.SessionHandle, ciphertext []byte) ([]byte, error)
}
