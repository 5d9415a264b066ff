package depstest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sources returns the files of each directory of the root module, without
// tests.
func sources(t *testing.T, fset *token.FileSet) map[string]map[string]*ast.File {
	t.Helper()
	dirs := make(map[string]map[string]*ast.File)
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path == top {
				return nil
			}
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			if err == nil || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
				return fs.SkipDir // other modules: examples, e2e, tools
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(top, filepath.Dir(path))
		if err != nil {
			return err
		}
		if dirs[dir] == nil {
			dirs[dir] = make(map[string]*ast.File)
		}
		dirs[dir][name] = f
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	return dirs
}

// TestEveryPackageHasOneComment: go doc shows only one of several, and which
// one is a matter of file names.
func TestEveryPackageHasOneComment(t *testing.T) {
	for dir, files := range sources(t, token.NewFileSet()) {
		var with []string
		for name, f := range files {
			if f.Doc == nil {
				continue
			}
			with = append(with, name)
			begin := "Package " + f.Name.Name + " "
			if f.Name.Name == "main" {
				begin = "Command "
			}
			assert.True(t, strings.HasPrefix(f.Doc.Text(), begin), "%s/%s: the comment begins with %q", dir, name, begin)
		}
		assert.Len(t, with, 1, "package comments of %s", dir)
	}
}

// TestEverythingExportedIsDocumented accepts a comment on one of several
// declarations of the same name, for other platforms, and on the group of a
// constant or variable.
func TestEverythingExportedIsDocumented(t *testing.T) {
	fset := token.NewFileSet()
	for dir, files := range sources(t, fset) {
		documented := make(map[string]bool)
		where := make(map[string]string)
		for _, f := range files {
			if f.Name.Name == "main" {
				continue
			}
			for name, doc := range exported(f) {
				documented[name] = documented[name] || doc.text
				where[name] = fset.Position(doc.pos).String()
			}
		}
		for _, name := range slices.Sorted(maps.Keys(documented)) {
			assert.True(t, documented[name], "%s: %s.%s has no comment", where[name], dir, name)
		}
	}
}

type doc struct {
	text bool
	pos  token.Pos
}

// exported returns what a file exports.
func exported(f *ast.File) map[string]doc {
	all := make(map[string]doc)
	add := func(id *ast.Ident, receiver string, comments ...*ast.CommentGroup) {
		if !id.IsExported() {
			return
		}
		text := slices.ContainsFunc(comments, func(c *ast.CommentGroup) bool { return c.Text() != "" })
		all[receiver+id.Name] = doc{text, id.Pos()}
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			receiver := ""
			if d.Recv != nil {
				receiver = typeName(d.Recv.List[0].Type)
				if !ast.IsExported(receiver) {
					continue
				}
				receiver += "."
			}
			add(d.Name, receiver, d.Doc)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					add(s.Name, "", d.Doc, s.Doc)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						add(id, "", d.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
	return all
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	}
	return ""
}

func TestTheDocTestSeesWhatIsMissing(t *testing.T) {
	const source = `package p

// A is documented.
type A struct{}

type B struct{}

// Documented.
func (a *A) M()    {}
func (a *A) N()    {}
func (b hidden) M() {}

// The group is documented.
const (
	C = iota
	D
)

var (
	E = 1 // E is.
	F = 2
)
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	got := make(map[string]bool)
	for name, d := range exported(f) {
		got[name] = d.text
	}
	assert.Equal(t, map[string]bool{
		"A": true, "B": false, "A.M": true, "A.N": false, "C": true, "D": true, "E": true, "F": false,
	}, got)
}
