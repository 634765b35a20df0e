package condition

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func testClaims() map[string]any {
	return map[string]any{
		"actor_id": "7", "run_attempt": "2", "ref": "refs/heads/main", "text": "abc", "empty": "", "nil": nil,
		"number": int64(5), "float": 5.0, "half": 0.5, "json": json.Number("5"), "yes": true, "no": false,
		"groups": []any{"a", "b"}, "none": []any{}, "nulls": []any{nil}, "odd name/x": "v",
		"object": map[string]any{"key": "v", "deep": map[string]any{"er": "w"}, "nil": nil},
		"people": []any{map[string]any{"provider": "github", "id": "1"}, map[string]any{"provider": "gitlab"}},
	}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// evaluate compiles and evaluates: true, false (with the reason), or a load error.
func evaluate(t testing.TB, text string) (allowed bool, problems []Problem, refusal error) {
	t.Helper()
	compiler, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	c, problems := compiler.Compile(text)
	if len(problems) > 0 {
		return false, problems, nil
	}
	refusal = c.Allow(testClaims(), Request{Grant: "p/g", TTL: 10 * time.Minute, Time: noon, IP: netip.MustParseAddr("10.1.2.3")})
	return refusal == nil, nil, refusal
}

func TestConditionAllows(t *testing.T) {
	for _, text := range []string{
		`claims.actor_id == "7"`,
		`claims["actor_id"] == "7"`,
		`claims["odd name/x"] == "v"`,
		`.claims.actor_id == "7"`,
		`int(claims.run_attempt) <= 3 && request.time.getHours("Europe/London") >= 7`,
		`request.time.getHours() == 12`,
		`request.time.getHours("Asia/Kolkata") == 17 && request.time.getMinutes("+05:30") == 30 && request.time.getHours("-03:00") == 9`,
		`request.time.getFullYear("UTC") == 2026 && request.time.getMonth("UTC") == 10 && request.time.getDate("UTC") == 23 && request.time.getDayOfMonth("UTC") == 22`,
		`request.time.getDayOfWeek("UTC") == 1 && request.time.getDayOfYear("UTC") == 326 && request.time.getSeconds("UTC") == 0 && request.time.getMilliseconds("UTC") == 0`,
		`request.time.getDate("Pacific/Kiritimati") == 24`,
		`request.grant == "p/g" && request.ttl <= duration("15m")`,
		`request.time < timestamp("2026-12-01T00:00:00Z")`,
		`request.ip.inCIDR("10.0.0.0/8") && !request.ip.inCIDR("10.0.0.0/16") && !request.ip.inCIDR("::/0")`,
		`claims.number == 5 && claims.float == 5 && claims.json == 5 && claims.half == 0.5`,
		`claims.yes == true`,
		`claims.yes && !claims.no`,
		`!(claims.actor_id == "8")`,
		`claims.ref.startsWith("refs/heads/")`,
		`claims.ref.matches("^refs/heads/(?:main|next)$")`,
		`claims.actor_id in ["7", "8"]`,
		`"a" in claims.groups`,
		`claims.groups.exists(g, g == "b")`,
		`claims.groups.all(g, g != "c")`,
		`claims.groups.filter(g, g == "a").size() == 1`,
		`claims.groups.map(g, g + "x") == ["ax", "bx"]`,
		`claims.groups[0] == "a"`,
		`claims.object.key == "v" && claims.object.deep.er == "w" && claims["object"]["key"] == "v"`,
		`claims.people.exists(p, p.provider == "github")`,
		`claims.people.all(p, p.provider != "x")`,
		`has(claims.actor_id) && claims.actor_id == "7"`,
		`claims.yes && has(claims.actor_id) && claims.actor_id == "7"`,
		`has(claims.absent) && claims.absent == "x" || claims.actor_id == "7"`,
		`(has(claims.absent) && claims.absent == "x") || (has(claims.ref) && claims.ref == "refs/heads/main")`,
		`has(claims.object.key) && claims.object.key == "v"`,
		`has(claims.object) && has(claims.object.key) && claims.object.key == "v"`,
		`claims.empty == ""`,
		`claims.actor_id == "8" ? false : claims.yes == true`,
		`claims.actor_id == "8" || claims.actor_id == "9" || claims.actor_id == "7"`,
		`[1, 2].exists(n, n == 2)`,
	} {
		if ok, problems, refusal := evaluate(t, text); !ok {
			t.Errorf("%s: refused: %v %v", text, refusal, problems)
		}
	}
}

// No token may pass for what it doesn't say. Each of these compiles, would be
// true in plain CEL or could be taken for true, and has to refuse.
func TestAbsenceNeverPasses(t *testing.T) {
	for _, text := range []string{
		`claims.absent == "prod" || claims.actor_id == "7"`,
		`claims.actor_id == "7" || claims.absent == "prod"`,
		`claims["absent"] == "prod" || claims.actor_id == "7"`,
		`claims.absent != "evil"`,
		`!(claims.absent == "evil")`,
		`!(claims.absent == "evil" && claims.actor_id == "8")`,
		`!(claims.actor_id == "8" && claims.absent == "evil")`,
		`claims.actor_id == "7" ? true : claims.absent == "x"`,
		`claims.nil != "evil"`,
		`claims.nil == null`,
		`claims.absent == null`,
		`claims.object.nil == null`,
		`claims.object.absent != "evil"`,
		`claims.object.absent == "x" || claims.actor_id == "7"`,
		`claims.actor_id == "7" || claims.object.absent == "x"`,
		`claims.absent.deeper == "x" || claims.actor_id == "7"`,
		`claims.object.absent.deeper == "x" || claims.actor_id == "7"`,
		`claims["object"]["absent"] == "x" || claims.actor_id == "7"`,
		`claims.object[claims.ref] == "x" || claims.actor_id == "7"`,
		`claims.groups[5] == "x" || claims.actor_id == "7"`,
		`claims.people.exists(p, p.id == "2" || p.provider == "gitlab")`,
		`claims.people.exists(p, p.id == "2") || claims.actor_id == "7"`,
		`claims.people.all(p, p.id != "2" || p.provider == "gitlab")`,
		`!claims.people.all(p, p.id == "1" && p.provider == "github")`,
		`claims.people.exists_one(p, p.id == "1")`,
		`claims.people.map(p, p.id).size() == 2 || claims.actor_id == "7"`,
		`claims.none.all(g, g == claims.absent)`,
		`[].all(g, claims.absent == g)`,
		`claims.groups.exists(g, g == claims.absent || g == "a")`,
		`(claims.actor_id == "7" ? claims.object : claims.people[0]).absent == "x" || claims.actor_id == "7"`,
		`[claims.object][0].absent == "x" || claims.actor_id == "7"`,
		`dyn(claims.object).absent == "x" || claims.actor_id == "7"`,
		`dyn(claims.absent) == "x" || claims.actor_id == "7"`,
		`type(claims.absent) == string || claims.actor_id == "7"`,
		`type(claims.absent) != string`,
		`"key" in claims.object`,
		`!("absent" in claims.object)`,
		`size(claims.object) == 3`,
		`claims.object.size() > 0`,
		`claims.object.all(k, k != "absent")`,
		`claims.object.all(k, true)`,
		`claims.object.exists(k, true)`,
		`claims.object.map(k, k) != ["x"]`,
		`claims.object == claims.object`,
		`[claims.object] == [claims.object.deep]`,
		`claims.people == [claims.object, claims.object]`,
		`claims.nils == ["a"]`,
		`["a"] == claims.nils`,
		`"a" in claims.nils`,
		`claims.text == 5 || int(claims.text) == 5 || claims.actor_id == "7"`,
		`claims.text < 5 || claims.actor_id == "7"`,
		`claims.text || claims.yes`,
		`claims.yes || claims.text`,
		`claims.text ? true : true`,
		`has(claims.absent) && claims.absent == "x"`,
		`has(claims.absent) && true`,
		`has(claims.object.absent) && true`,
		`has(claims.absent) && claims.other == "x" || claims.actor_id == "7"`,
		`has(claims.absent.deeper) && true || claims.actor_id == "7"`,
		`has(claims.text.deeper) && true`,
		`has(claims.nil) && claims.nil != "x"`,
		`has(claims.nil) && claims.nil != "x" || claims.actor_id == "7"`,
		`has(claims.absent) && claims.absent == "x" || claims.absent != "y"`,
		`claims.actor_id == 7`,
		`claims.number == "5"`,
		`claims.yes == "true"`,
	} {
		ok, problems, refusal := evaluate(t, text)
		if len(problems) > 0 {
			t.Errorf("%s: doesn't compile: %v", text, problems)
		} else if ok {
			t.Errorf("%s: allowed", text)
		} else if refusal == nil {
			t.Errorf("%s: refused without a reason", text)
		}
	}
}

func TestConditionRefusedAtLoad(t *testing.T) {
	for text, want := range map[string]string{
		`!has(claims.absent)`:                                    "has is accepted only as",
		`has(claims.actor_id)`:                                   "has is accepted only as",
		`claims.yes && has(claims.actor_id)`:                     "has is not followed by",
		`has(claims.x) || claims.yes`:                            "has is accepted only as",
		`has(claims.x) == false`:                                 "has is accepted only as",
		`has(claims.x) ? claims.x == "a" : true`:                 "has is accepted only as",
		`!(has(claims.x) && claims.x == "evil")`:                 "has is accepted only as",
		`(has(claims.x) && claims.x == "evil") == false`:         "has is accepted only as",
		`(has(claims.x) && claims.x == "evil") ? false : true`:   "has is accepted only as",
		`claims.yes ? (has(claims.x) && claims.x == "a") : true`: "has is accepted only as",
		`[has(claims.x) && claims.yes] == [false]`:               "has is accepted only as",
		`claims.groups.all(g, has(claims.x) && g == "a")`:        "has is accepted only as",
		`claims.people.exists(p, has(p.id) && p.id == "1")`:      "has is accepted only as",
		`has({"a": 1}.a) && true`:                                "has is for claims alone",
		`size(claims) > 3`:                                       "claims stands here as a whole",
		`claims.size() == 0`:                                     "claims stands here as a whole",
		`claims == {}`:                                           "claims stands here as a whole",
		`claims != {"a": 1}`:                                     "claims stands here as a whole",
		`"absent" in claims`:                                     "claims stands here as a whole",
		`!("absent" in claims)`:                                  "claims stands here as a whole",
		`!("absent" in .claims)`:                                 "claims stands here as a whole",
		`claims.all(c, c != "absent")`:                           "claims stands here as a whole",
		`claims.exists(c, c == "actor_id")`:                      "claims stands here as a whole",
		`claims.map(c, c).size() > 1`:                            "claims stands here as a whole",
		`dyn(claims) != null`:                                    "claims stands here as a whole",
		`type(claims) == map`:                                    "claims stands here as a whole",
		`[claims][0].absent == "x"`:                              "claims stands here as a whole",
		`(claims.yes ? claims : claims).absent == "x"`:           "claims stands here as a whole",
		`claims[claims.ref] == "x"`:                              "the name of a claim is computed",
		`claims["ab" + "sent"] == "x"`:                           "the name of a claim is computed",
		`claims[0] == "x"`:                                       "the name of a claim is computed",
		`claims.groups.exists(claims, claims == "a")`:            "hides claims",
		`{"a": claims.text}.b == "x"`:                            "mappings and messages",
		`claims.?absent.orValue("a") == "a"`:                     "condition, line 1",
		`claims[?"absent"] == optional.none()`:                   "condition, line 1",
		`claims.text.matches("main")`:                            "not anchored",
		`claims.text.matches("^a|b$")`:                           "not anchored",
		`claims.text.matches("^a$|b")`:                           "not anchored",
		`claims.text.matches("(?m)^a$")`:                         "not anchored",
		`claims.text.matches(claims.ref)`:                        "is no literal",
		`matches(claims.text, "a")`:                              "not anchored",
		`claims.text.matches("^(a$")`:                            "no RE2",
		`request.time.getHours("Europe/Lodnon") > 1`:             "unknown time zone",
		`request.time.getHours("Local") > 1`:                     "unknown time zone",
		`request.time.getHours("+25:99") > 1`:                    "unknown time zone",
		`request.time.getHours(claims.text) == 12`:               "the time zone is no literal",

		`claims.yes`: "not true or false, but dyn",
		`claims.actor_id == "8" ? false : claims.yes`: "not true or false, but dyn",
		`"text"`:                          "not true or false",
		`1 + 1`:                           "not true or false",
		`claims.a ==`:                     "condition, line 1, column",
		`unknown == 1`:                    "undeclared reference",
		`request == 1`:                    "undeclared reference",
		`request.other == 1`:              "undeclared reference",
		`request.ttl == "5m"`:             "no matching overload",
		`1 == 1 && "a"`:                   "no matching overload",
		`request.ip.inCIDR("10.0.0.1/8")`: "is no network",
		`request.ip.inCIDR("10/8")`:       "is no network",
		`request.ip.inCIDR(claims.net)`:   "is no literal",
		`"` + strings.Repeat("a", 5000) + `" == "a"`:                 "longer than",
		`timestamp("yesterday") < request.time`:                      "invalid timestamp",
		`claims.a.all(a, claims.b.all(b, claims.c.all(c, a == c)))`:  "comprehension exceeds nesting limit",
		`claims.a.all(a, claims.b.all(b, claims.c.contains(a + b)))`: "could cost",
		strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60):   "recursion",
	} {
		_, problems, refusal := evaluate(t, text)
		if len(problems) == 0 {
			t.Errorf("%s: compiles (%v)", text, refusal)
			continue
		}
		if !strings.Contains(problems[0].Text, want) {
			t.Errorf("%s: %q, want %q in it", text, problems[0].Text, want)
		}
		for _, p := range problems {
			if strings.Contains(p.Text, "@") || strings.Contains(p.Text, "\n") {
				t.Errorf("%s: %q is no text for people", text, p.Text)
			}
		}
	}
}

// A condition costs no more than its limit, whatever the token holds.
func TestConditionCostIsBounded(t *testing.T) {
	compiler, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	c, problems := compiler.Compile(`claims.groups.all(a, a != "y")`)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	many := make([]any, 20_000)
	for i := range many {
		many[i] = strings.Repeat("x", 100)
	}
	if err := c.Allow(map[string]any{"groups": many}, Request{Time: noon}); err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("a loop over 20,000 entries was not stopped: %v", err)
	}
	if err := c.Allow(map[string]any{"groups": many[:50]}, Request{Time: noon}); err != nil {
		t.Errorf("50 entries: %v", err)
	}
}

func TestConditionClaimNames(t *testing.T) {
	compiler, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	c, problems := compiler.Compile(`has(claims.a) && claims.a == claims.b || (has(claims.c) && claims.c.d == "x" && claims["e"] == "y") || claims.c == "z"`)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if got := strings.Join(c.names, " "); got != "a b c e" {
		t.Errorf("names are %s", got)
	}
	if got := strings.Join(c.required, " "); got != "b c e" {
		t.Errorf("required are %s", got)
	}
}

func TestConditionUses(t *testing.T) {
	compiler, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`claims.a == "x" && 3 > claims.b && claims["c d"] != true`:         "[{a text} {b number} {c d truth value}]",
		`claims.a in ["x", 1] && "x" in claims.g && claims.a in claims.g`:  "[{a text} {a number} {g list} {g list}]",
		`claims.a.startsWith("x") && claims.b.matches("^x$")`:              "[{a text} {b text}]",
		`int(claims.a) == 3 && claims.o.x == "y" && claims.a == claims.b`:  "[]",
		`has(claims.a) && claims.a == "x" || claims.l.exists(i, i == "x")`: "[{a text}]",
	} {
		c, problems := compiler.Compile(text)
		if len(problems) > 0 {
			t.Fatal(text, problems)
		}
		if got := fmt.Sprint(c.Uses()); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// FuzzCondition: whatever compiles refuses a token that lacks one of the claims
// it names (those behind their own has() aside), and doesn't care for the others.
func FuzzCondition(f *testing.F) {
	for _, seed := range []string{
		`claims.actor_id == "7" || claims.text == "abc"`, `has(claims.ref) && claims.ref != "x"`, `!(claims.yes)`, `claims.groups.all(g, g != "c")`,
		`claims.people.exists(p, p.id == "1")`, `"a" in claims.groups`, `claims.number > 4 && claims.half < 1.0`, `request.ttl < duration("1h")`,
		`claims.object.deep.er.matches("^w$")`, `claims.ref.split("/")[0] == "refs"`, `claims.yes ? claims.no : claims.yes == true`,
	} {
		f.Add(seed, "actor_id")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		compiler, err := NewCompiler()
		if err != nil {
			t.Fatal(err)
		}
		c, problems := compiler.Compile(text)
		if len(problems) > 0 {
			return
		}
		req := Request{Grant: "p/g", TTL: time.Minute, Time: noon}
		claims := testClaims()
		first := c.Allow(claims, req)
		if second := c.Allow(claims, req); (first == nil) != (second == nil) {
			t.Fatal("two evaluations differ")
		}
		for _, required := range c.required {
			without := testClaims()
			delete(without, required)
			if c.Allow(without, req) == nil {
				t.Fatalf("allowed without %s", required)
			}
		}
		if !slices.Contains(c.names, name) {
			without := testClaims()
			delete(without, name)
			if got := c.Allow(without, req); (got == nil) != (first == nil) {
				t.Fatalf("without %s, which it doesn't name, the answer is another", name)
			}
		}
		if c.Allow(nil, req) == nil && len(c.required) > 0 {
			t.Fatal("allowed without any claim")
		}
	})
}
