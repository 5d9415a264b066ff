package main

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/tcpstate/tcpstate-go/bench/internal/docfile"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/scale"
)

// growth prints how cost grows, and puts it into the document and what is to be
// quoted into the README, if they are given.
func growth(ctx context.Context, out io.Writer, env *row.Env, m machine, doc, readme string) error {
	g, err := scale.Growth(ctx, env)
	if err != nil {
		return err
	}
	var b, sum bytes.Buffer
	if err := errors.Join(g.Markdown(&b, m.String()), g.Summary(&sum, m.String())); err != nil {
		return err
	}
	if _, err := out.Write(b.Bytes()); err != nil {
		return err
	}
	if doc != "" {
		err = docfile.Replace(doc, "growth", b.Bytes())
	}
	if readme != "" {
		err = errors.Join(err, docfile.Replace(readme, "cost", sum.Bytes()))
	}
	return err
}

// page is the table on its way to the reader and into the document.
type page struct {
	io.Writer
	text bytes.Buffer
}

func newPage(out io.Writer) *page {
	p := new(page)
	p.Writer = io.MultiWriter(out, &p.text)
	return p
}

func (p *page) put(doc string) error {
	return docfile.Replace(doc, "table", []byte("```text\n"+p.text.String()+"```\n"))
}
