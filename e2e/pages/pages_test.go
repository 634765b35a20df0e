package pages

import (
	"reflect"
	"testing"
)

func TestRead(t *testing.T) {
	got := read("a.md", "# A\n```sh\none\n```\n## B\n\n<!-- not run: it is far away -->\n   ```\n   two\n     three\n   ```\n<!-- not run: no -->\nwords\n```json\n{}\n```\n")
	want := []Example{
		{Page: "a.md", Language: "sh", Text: "one\n", Line: 2},
		{Page: "a.md", Section: "B", Text: "two\n  three\n", Line: 8, NotRun: "it is far away"},
		{Page: "a.md", Section: "B", Language: "json", Text: "{}\n", Line: 14},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}
