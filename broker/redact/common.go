package redact

import "strings"

// longNumber is from how many digits on a number can be a secret that is masked:
// shorter ones are times, sizes and ids of other things.
const longNumber = 16

// commonWords stand in logs for reasons of their own. All have at least MinValue
// letters; shorter ones are too short anyway.
const commonWords = " passw0rd password passwort passphrase changeme change-me change_me username postgres postgresql localhost localhost.localdomain" +
	" 127.0.0.1 0.0.0.0 production development integration undefined disabled database security internal external required optional redacted [redacted]" +
	" deployment artifact artifacts workflow pipeline repository container kubernetes registry reference resource resources complete completed finished" +
	" starting building checking download downloading installing installed successful succeeded cancelled canceled timestamp continue response requests" +
	" services metadata namespace function functions interface exception authorization warnings sequence template variable variables environment" +
	" administrator anonymous credential credentials certificate developer changeit qwertyuiop iloveyou sunshine 12345678 123456789 1234567890" +
	" secretkey mypassword test1234 testtest example.com default/ unauthorized forbidden connection permission permissions "

// Common says that a value is too short, or stands in ordinary text too often, to
// be masked: the masks would make a log unreadable, and where they stand would
// give the value away. [New] refuses such a value; whoever has one from outside
// warns and leaves it out.
func Common(value string) bool {
	if len(value) < MinValue || strings.Count(value, value[:1]) == len(value) {
		return true
	}
	if len(value) < longNumber && strings.Trim(value, "0123456789.:-+/TZ ") == "" {
		return true
	}
	return !strings.ContainsRune(value, ' ') && strings.Contains(commonWords, " "+strings.ToLower(value)+" ")
}
