package ssh

import (
	"encoding/binary"
	"slices"
	"time"
)

// The numbers of OpenSSH's PROTOCOL.krl.
const (
	krlMagic        = 0x5353484b524c0a00 // "SSHKRL\n\0"
	krlFormat       = 1
	krlCertificates = 1    // the section about certificates of one authority
	krlSerialList   = 0x20 // the part of it that lists serials
	krlKeys         = 2    // the section of keys: one of an authority takes all along that it signed
)

// revocationList writes a Key Revocation List, as OpenSSH's PROTOCOL.krl has it.
// It isn't signed: sshd looks at no signature of one, so it is to be fetched by
// TLS. Version is the time in seconds, which grows whichever broker answers.
func (i *Issuer) revocationList(serials []uint64, now time.Time) []byte {
	b := binary.BigEndian.AppendUint64(nil, krlMagic)
	b = binary.BigEndian.AppendUint32(b, krlFormat)
	b = binary.BigEndian.AppendUint64(b, unix(now)) // version
	b = binary.BigEndian.AppendUint64(b, unix(now)) // when it was made
	b = binary.BigEndian.AppendUint64(b, 0)         // flags: none are defined
	b = appendString(b, nil)                        // reserved
	b = appendString(b, []byte("daypass"))
	if len(serials) > 0 {
		serials = slices.Clone(serials)
		slices.Sort(serials)
		var list []byte
		for _, n := range slices.Compact(serials) {
			list = binary.BigEndian.AppendUint64(list, n)
		}
		section := appendString(nil, i.authority.Marshal())
		section = appendString(section, nil) // reserved
		section = appendString(append(section, krlSerialList), list)
		b = appendString(append(b, krlCertificates), section)
	}
	if len(i.revoked) > 0 {
		var section []byte
		for _, key := range i.revoked {
			section = appendString(section, key.Marshal())
		}
		b = appendString(append(b, krlKeys), section)
	}
	return b
}

// appendString appends a string as SSH has them: its length in 4 bytes before it.
func appendString(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // a list of 4 GiB would be of 500 million leases
	return append(b, s...)
}
