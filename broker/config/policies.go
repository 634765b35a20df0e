package config

import "github.com/daypass/daypass/policies/strictyaml"

// ParseForPolicies reads what policies are checked against: environments,
// providers, issuers, their roles and who may use them. It needs no file that the
// configuration names, no secret and no variable of the environment, and reports
// only what stands in the way of that. Unknown keys are refused as ever.
//
// The Config is good for PolicyProviders, CheckGrant and Environments alone.
func ParseForPolicies(filename string, data []byte) (*Config, []strictyaml.Mistake) {
	c := &Config{}
	l := &loader{config: c, lenient: true}
	l.mistakes = strictyaml.Decode(filename, data, c)
	if c.At.Line > 0 {
		l.environments()
		l.providers()
		l.issuers()
	}
	c.Warnings = nil
	return c, strictyaml.Sort(l.mistakes)
}
