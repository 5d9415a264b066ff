package docfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	const before = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, name := range []string{"z", ""} {
		if err := Replace(path, name, []byte("new\n")); err == nil || read() != before {
			t.Errorf("%q: %v, %q", name, err, read())
		}
	}
	for range 2 { // the second changes nothing
		if err := Replace(path, "x", []byte("new\n")); err != nil {
			t.Fatal(err)
		}
		if got, want := read(), "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"; got != want {
			t.Errorf("%q", got)
		}
	}
	if err := Replace(filepath.Join(t.TempDir(), "none"), "x", nil); err == nil {
		t.Error("there is no such file")
	}
}
