// Package hangup measures which pool hands out connections that their peer has
// closed. A server in a process of its own closes its connections at random and
// writes down when; borrowers compare that with the time at which they got one.
// Nobody's word is taken for it but that of the server.
package hangup
