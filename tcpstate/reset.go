package tcpstate

// maxUnread is how much may be left unread by Close without being worth a line
// of code: what protocols end with (TLS close_notify and session tickets,
// HTTP/2 GOAWAY) is less.
const maxUnread = 1 << 10
