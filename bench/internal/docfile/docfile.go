// Package docfile puts what a program has measured into a document that is
// written by hand otherwise.
package docfile

import (
	"bytes"
	"fmt"
	"os"
)

// Replace replaces what lies in the file between the lines
//
//	<!-- begin name -->
//	<!-- end name -->
//
// by text. It fails, and changes nothing, unless the file has both.
func Replace(path, name string, text []byte) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok := bytes.Cut(old, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q", path, begin[:len(begin)-1], end[:len(end)-1])
	}
	all := bytes.Join([][]byte{before, []byte(begin), text, []byte(end), after}, nil)
	return os.WriteFile(path, all, info.Mode().Perm())
}
