package main

import (
	"bytes"
	"context"
	"io"

	"github.com/tcpstate/tcpstate-go/bench/internal/docfile"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/scale"
)

// growth prints how cost grows, and puts it into the document, if there is one.
func growth(ctx context.Context, out io.Writer, env *row.Env, m machine, doc string) error {
	g, err := scale.Growth(ctx, env)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := g.Markdown(&b, m.String()); err != nil {
		return err
	}
	if _, err := out.Write(b.Bytes()); err != nil || doc == "" {
		return err
	}
	return docfile.Replace(doc, "growth", b.Bytes())
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
