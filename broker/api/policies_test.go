package api

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestClaimsKeepTheirNumbers(t *testing.T) {
	var got Claims
	if err := json.Unmarshal([]byte(`{"id":9007199254740993,"part":1.5,"list":[1,"1"],"in":{"n":2},"none":null}`), &got); err != nil {
		t.Fatal(err)
	}
	want := Claims{"id": int64(9007199254740993), "part": 1.5, "list": []any{int64(1), "1"}, "in": map[string]any{"n": int64(2)}, "none": nil}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
	for _, bad := range []string{`{"n":1e999}`, `[1]`, `{"l":[1e999]}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
