package pool

import "io"

// WriteTo implements io.WriterTo, as the connection below does.
func (h Conn) WriteTo(w io.Writer) (int64, error) {
	if !h.enterIO() {
		return 0, h.errClosed("writeto")
	}
	defer h.leave()
	// A copy ends with the end of the stream, or with an error on either side.
	h.c.mark(markFailed)
	if from, ok := h.c.Conn.(io.WriterTo); ok {
		return from.WriteTo(w)
	}
	return io.Copy(w, onlyReader{h.c.Conn})
}

// ReadFrom implements io.ReaderFrom, as the connection below does. A source that
// is a Conn, bare or in an io.LimitedReader, is handed on as what it lends, so
// that the kernel can move the bytes.
func (h Conn) ReadFrom(r io.Reader) (int64, error) {
	if !h.enterIO() {
		return 0, h.errClosed("readfrom")
	}
	src, limited := r, (*io.LimitedReader)(nil)
	if lr, ok := r.(*io.LimitedReader); ok {
		src, limited = lr.R, lr
	}
	from, ok := src.(Conn)
	if !ok {
		n, err := h.readFrom(r)
		h.leaveIO(err)
		return n, err
	}
	if !from.enterIO() {
		h.leave()
		return 0, from.errClosed("read")
	}
	src = from.c.Conn
	if limited != nil {
		src = &io.LimitedReader{R: src, N: limited.N}
	}
	n, err := h.readFrom(src)
	done := err
	if limited == nil {
		done = io.EOF // the end of the source
	} else {
		limited.N -= n
		if err == nil && limited.N > 0 {
			done = io.EOF
		}
	}
	from.leaveIO(done)
	h.leaveIO(err)
	return n, err
}

func (h Conn) readFrom(r io.Reader) (int64, error) {
	if to, ok := h.c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(r)
	}
	return io.Copy(onlyWriter{h.c.Conn}, r)
}

// onlyReader and onlyWriter hide the methods by which io.Copy would come back.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
