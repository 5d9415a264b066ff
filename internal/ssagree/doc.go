// Package ssagree holds a test that puts connections into every TCP state and
// compares what the library reports with what ss(8) shows for the same
// addresses.
package ssagree
